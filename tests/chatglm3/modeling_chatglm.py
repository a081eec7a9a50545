"""A small causal model with the habits of ChatGLM3's own code (see ``tiny_chatglm3.py``).

Positions are learned ones, where ChatGLM3 turns vectors: so a padded row without its own ``position_ids`` shows.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_chatglm import ChatGLMConfig

try:  # kernels of quantised weights: this package fails to import on a machine without a GPU
    import cpm_kernels  # noqa: F401

    HAS_KERNELS = True
except Exception:
    HAS_KERNELS = False


class GLMBlock(nn.Module):
    """Attention and a feed-forward part. Hidden states are (positions, batch, hidden), and so are keys and values."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])
        self.query_key_value = nn.Linear(size, 3 * size)
        self.dense = nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, hidden, hide, past):
        """hide: bool (batch, 1, new, all), True where a position must not be looked at. Returns hidden and the cache."""
        new, batch, size = hidden.shape
        q, k, v = self.query_key_value(self.norms[0](hidden)).chunk(3, dim=-1)
        if past is not None:
            k, v = torch.cat([past[0], k]), torch.cat([past[1], v])
        by_head = [x.reshape(len(x), batch, self.heads, -1).permute(1, 2, 0, 3) for x in (q, k, v)]
        mixed = nn.functional.scaled_dot_product_attention(*by_head, attn_mask=~hide)
        hidden = hidden + self.dense(mixed.permute(2, 0, 1, 3).reshape(new, batch, size))
        return hidden + self.mlp(self.norms[1](hidden)), (k, v)


class ChatGLMModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.seq_length, config.hidden_size)
        self.layers = nn.ModuleList([GLMBlock(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)

    def forward(self, input_ids, position_ids, attention_mask, past):
        hidden = (self.embedding(input_ids) + self.positions(position_ids)).transpose(0, 1)
        new, total = input_ids.shape[1], attention_mask.shape[1]
        hide = torch.ones(new, total, dtype=torch.bool, device=hidden.device).triu(total - new + 1)
        hide = hide | (attention_mask[:, None, None, :] == 0)
        hide = hide & (attention_mask[:, None, -new:, None] != 0)  # a row of padding looks at anything, or it is NaN
        caches = []
        for i, layer in enumerate(self.layers):
            hidden, cache = layer(hidden, hide, past[i] if past else None)
            caches.append(cache)
        return self.norm(hidden), tuple(caches)


class ChatGLMForConditionalGeneration(PreTrainedModel):
    """Never calls ``post_init``, and keeps its place in the text in ``position_ids`` that only it brings forward."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["GLMBlock"]

    def __init__(self, config, empty_init=True, device=None):
        super().__init__(config)
        self.transformer = ChatGLMModel(config)

    def _init_weights(self, module):
        return

    def forward(
        self,
        input_ids,
        position_ids=None,
        attention_mask=None,
        past_key_values=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        return_last_logit=False,
    ):
        seen = past_key_values[0][0].shape[0] if past_key_values else 0
        batch, new = input_ids.shape
        if position_ids is None:  # no look at the attention mask, as in ChatGLM3
            position_ids = torch.arange(seen, seen + new, device=input_ids.device).expand(batch, new)
        if attention_mask is None:
            attention_mask = torch.ones(batch, seen + new, dtype=torch.long, device=input_ids.device)
        hidden, caches = self.transformer(input_ids, position_ids, attention_mask, past_key_values)
        if return_last_logit:
            hidden = hidden[-1:]
        logits = self.transformer.output_layer(hidden).transpose(0, 1).contiguous()
        return CausalLMOutputWithPast(logits=logits, past_key_values=caches)

    def prepare_inputs_for_generation(
        self,
        input_ids,
        past_key_values=None,
        attention_mask=None,
        position_ids=None,
        use_cache=None,
        is_first_forward=True,
        **others,
    ):
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape)
        if not is_first_forward and past_key_values is not None:
            position_ids, input_ids = position_ids[:, -1:], input_ids[:, -1:]
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
            "attention_mask": attention_mask,
            "return_last_logit": True,
            "use_cache": use_cache,
        }

    def _update_model_kwargs_for_generation(
        self, outputs, model_kwargs, is_encoder_decoder=False, standardize_cache_format=False
    ):
        model_kwargs["past_key_values"] = outputs.past_key_values
        mask = model_kwargs["attention_mask"]
        model_kwargs["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if "position_ids" in model_kwargs:
            places = model_kwargs["position_ids"]
            model_kwargs["position_ids"] = torch.cat([places, places[:, -1:] + 1], dim=1)
        model_kwargs["is_first_forward"] = False
        return model_kwargs

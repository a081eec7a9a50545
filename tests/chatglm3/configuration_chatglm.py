"""Configuration of the small ChatGLM3-shaped model (see ``tiny_chatglm3.py``): its own names for the usual sizes."""

from transformers import PretrainedConfig


class ChatGLMConfig(PretrainedConfig):
    """num_layers, padded_vocab_size and seq_length stand for num_hidden_layers, vocab_size and the context."""

    model_type = "chatglm"

    def __init__(
        self,
        num_layers=2,
        padded_vocab_size=512,
        hidden_size=64,
        num_attention_heads=4,
        seq_length=512,
        use_cache=True,
        **others,
    ):
        self.num_layers = num_layers
        self.padded_vocab_size = self.vocab_size = padded_vocab_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.seq_length = seq_length
        self.use_cache = use_cache
        super().__init__(**others)

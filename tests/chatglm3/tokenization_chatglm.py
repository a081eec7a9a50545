"""A sentencepiece tokenizer with the habits of ChatGLM3's own code (see ``tiny_chatglm3.py``).

Role tokens have numbers behind those of the sentencepiece model, which no text can give.
"""

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer
from transformers.utils import PaddingStrategy

COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
ROLES = ("system", "user", "assistant", "observation")


class SPTokenizer:
    """The sentencepiece model with the commands behind it."""

    def __init__(self, model_path):
        self.sp_model = SentencePieceProcessor(model_file=model_path)
        pieces = self.sp_model.vocab_size()
        self.special_tokens = {token: pieces + i for i, token in enumerate(COMMANDS)}
        self.index_special_tokens = {i: token for token, i in self.special_tokens.items()}
        self.n_words = pieces + len(COMMANDS)

    def encode(self, s):
        return self.sp_model.encode(s)

    def convert_id_to_token(self, index):
        if index in self.index_special_tokens:
            return self.index_special_tokens[index]
        if index in (0, 1, 2) or index < 0 or index > self.sp_model.vocab_size():
            return ""
        return self.sp_model.id_to_piece(index)


class ChatGLMTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012

    def __init__(self, vocab_file, padding_side="left", clean_up_tokenization_spaces=False, **others):
        self.vocab_file = vocab_file
        self.tokenizer = SPTokenizer(vocab_file)
        self.special_tokens = {"<bos>": 1, "<eos>": 2, "<pad>": 0}
        super().__init__(
            padding_side=padding_side, clean_up_tokenization_spaces=clean_up_tokenization_spaces, **others
        )

    def get_command(self, token):
        if token in self.special_tokens:
            return self.special_tokens[token]
        assert token in self.tokenizer.special_tokens, f"{token} is not a special token"
        return self.tokenizer.special_tokens[token]

    # Properties without a setter: a tokenizer_config.json that names these tokens would break the loading.
    @property
    def unk_token(self):
        return "<unk>"

    @property
    def pad_token(self):
        return "<unk>"

    @property
    def pad_token_id(self):
        return self.get_command("<pad>")

    @property
    def eos_token(self):
        return "</s>"

    @property
    def eos_token_id(self):
        return self.get_command("<eos>")

    @property
    def vocab_size(self):
        return self.tokenizer.n_words

    def get_vocab(self):
        return {self._convert_id_to_token(i): i for i in range(self.vocab_size)} | self.added_tokens_encoder

    def _tokenize(self, text, **others):
        return self.tokenizer.sp_model.encode_as_pieces(text)

    def _convert_token_to_id(self, token):
        known = self.tokenizer.special_tokens.get(token)
        return self.tokenizer.sp_model.piece_to_id(token) if known is None else known

    def _convert_id_to_token(self, index):
        return self.tokenizer.convert_id_to_token(index)

    def convert_tokens_to_string(self, tokens):
        return self.tokenizer.sp_model.decode_pieces(tokens)

    def get_prefix_tokens(self):
        return [self.get_command("[gMASK]"), self.get_command("sop")]

    def build_single_message(self, role, metadata, message):
        assert role in ROLES, role
        head = [self.get_command(f"<|{role}|>"), *self.tokenizer.encode(f"{metadata}\n")]
        return head + self.tokenizer.encode(message)

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return self.get_prefix_tokens() + token_ids_0

    def _pad(
        self,
        encoded_inputs,
        max_length=None,
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of=None,
        return_attention_mask=None,
    ):
        """The signature of before transformers 4.45, which adds ``padding_side``."""
        assert self.padding_side == "left"
        ids = encoded_inputs["input_ids"]
        missing = max(0, (max_length or 0) - len(ids)) if padding_strategy != PaddingStrategy.DO_NOT_PAD else 0
        encoded_inputs["attention_mask"] = [0] * missing + [1] * len(ids)
        encoded_inputs["position_ids"] = [0] * missing + list(range(len(ids)))
        encoded_inputs["input_ids"] = [self.pad_token_id] * missing + ids
        return encoded_inputs

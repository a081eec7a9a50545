"""Model folders: what is in them, written so that a folder appears complete or not at all. No pickle anywhere.

    config.json        architecture, decode mode, threshold, format version; labels by number as the Hugging Face tools
                       read them
    labels.json        the label file the model was trained with
    model.safetensors  weights
    vocab.json         feature columns and their strings (encoder trained from nothing)
    encoder/           config and tokenizer of a pretrained encoder
    README.md          model card, where one was asked for
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from syn_pipelines.ner.data import DENSE_COLUMNS, SPACED_COLUMNS, LabelSet, Vocabulary
from syn_pipelines.ner.encoders import PretrainedEncoder, ScratchConfig, ScratchEncoder, load_encoder
from syn_pipelines.ner.head import HeadConfig
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.pieces import has_vocabulary, load_tokenizer
from syn_pipelines.ner.train_config import FORMAT_VERSION
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_json
from syn_pipelines.utils.llm.checkpoints import first_line

FORMAT = "syn_pipelines-ner"
MODEL_TYPE = "knowfree"
CONFIG, LABELS, WEIGHTS, VOCABULARY, ENCODER, CARD = (
    "config.json", "labels.json", "model.safetensors", "vocab.json", "encoder", "README.md")


def save_model(model: NerModel, folder: Path, *, card: str = "") -> Path:
    """Write ``model`` to ``folder``, replacing a model that is there; ``card``: text of its README.md, if any.

    The folder needs nothing outside it, and no path of this machine stands in it. The files are written to a hidden folder
    beside it, flushed to disk and renamed. While an older model is replaced it stands for a moment as ``.<name>.old``.

    Raises:
        UserError: ``folder`` is a file, or a folder that holds something other than a model.
    """
    refuse_foreign(folder)
    folder = folder.resolve()  # a link to a folder stays one
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        _write_files(model, fresh)
        if card:
            (fresh / CARD).write_text(card, encoding="utf-8")
        for path in sorted(fresh.rglob("*")):
            _flush(path)
        _flush(fresh)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)  # half a model must not go on filling a full disk
        if _is_of_system(error):
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: the model cannot be written ({reason}). Mend this, then run the same command again: a "
                            "training goes on from its last checkpoint.") from error
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load_model(folder: Path, *, base: str | None = None, device: str = "cpu") -> NerModel:
    """Read a model folder; the model comes back in eval mode on ``device``.

    Args:
        base: encoder that gives tokenizer and configuration where the folder lacks them.
    Raises:
        UserError: not a model folder, a file missing or broken, or label file and weights that do not fit together.
    """
    config = _own_config(folder)
    labels = LabelSet.read(_existing(folder, LABELS))
    if list(labels.names) != (trained := _trained_labels(folder, config)):
        raise UserError(f"{folder / LABELS}: its {len(labels.names)} labels besides O ({_few(labels.names)}) are not the "
                        f"{len(trained)} that the model was trained with ({_few(trained)}), says its {CONFIG}, or not in their "
                        "order. Put back the label file of the training.")
    weights_path = _existing(folder, WEIGHTS)
    try:
        head = HeadConfig(**config["head"])
        encoder = _build_encoder(folder, config["encoder"], base)
        model = NerModel(encoder, labels, head, decode=config["decode"], threshold=config["threshold"])
    except UserError:
        raise
    except Exception as error:  # sizes that no machine has, or that torch trips over in its own way
        raise UserError(f"{folder / CONFIG}: broken model configuration ({first_line(error)}). Train the model again.") from None
    try:
        model.load_state_dict(load_file(weights_path))
    except Exception as error:  # of damaged files the library also raises KeyError and OSError
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights_path}: the weights do not fit the model's configuration ({reason}). "
                        "Train the model again.") from None
    return model.to(device).eval()


def _trained_labels(folder: Path, config: dict[str, Any]) -> list[str]:
    try:
        return [config["id2label"][str(k)] for k in range(config["num_labels"])]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG}: broken model configuration (labels: {error}). Train the model again.") from None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def refuse_foreign(folder: Path) -> None:
    """UserError when ``folder`` is there and holds something other than a span model, such as a base encoder."""
    if folder.exists() and not _may_replace(folder):
        raise UserError(f"{folder}: exists and is not a model folder. Name another output folder, or remove it.")


def _may_replace(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        config = read_json(folder / CONFIG)
    except UserError:
        return not any(folder.iterdir())
    return isinstance(config, dict) and config.get("format") == FORMAT


def _write_files(model: NerModel, folder: Path) -> None:
    encoder = model.encoder
    if isinstance(encoder, ScratchEncoder):
        kind = {"kind": "scratch", **asdict(encoder.config)}
        # ASCII: a token may hold half a surrogate pair, which UTF-8 cannot.
        _write_json(folder / VOCABULARY, encoder.vocabulary.columns, ascii_only=True)
    else:
        kind = {"kind": "pretrained", "pooling": encoder.splitter.pooling, "spaced": encoder.splitter.spaced}
        encoder.encoder.config.save_pretrained(folder / ENCODER)
        encoder.splitter.tokenizer.save_pretrained(folder / ENCODER)
        for name in ("config.json", "tokenizer_config.json"):
            _without_paths(folder / ENCODER / name)
    _write_json(folder / CONFIG, {
        "format": FORMAT, "format_version": FORMAT_VERSION, "model_type": MODEL_TYPE, "architectures": ["NerModel"],
        "num_labels": len(model.labels.names), "id2label": dict(enumerate(model.labels.names)),
        "label2id": {name: k for k, name in enumerate(model.labels.names)},
        "decode": model.decode, "threshold": model.threshold, "head": asdict(model.head.config), "encoder": kind,
    })
    _write_json(folder / LABELS, model.labels.to_dict())
    # clone: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors gives its file to the owner alone


def _is_of_system(error: BaseException) -> bool:
    """Whether the disk is to blame: writers in Rust report that in forms of their own."""
    return isinstance(error, (OSError, SafetensorError)) or (type(error) is Exception and "os error" in str(error))


def _without_paths(path: Path) -> None:
    """Take out where the files of an encoder once lay on this machine."""
    if not path.is_file():
        return
    content = _read_json(path)
    _write_json(path, {name: value for name, value in content.items()
                       if not (name.endswith(("_path", "_file")) and isinstance(value, str) and os.path.isabs(value))})


def _build_encoder(folder: Path, config: dict, base: str | None) -> ScratchEncoder | PretrainedEncoder:
    settings = {name: value for name, value in config.items() if name != "kind"}
    if config["kind"] == "scratch":
        return ScratchEncoder(ScratchConfig(**settings), _read_vocabulary(_existing(folder, VOCABULARY)))
    inner = folder / ENCODER
    sources = {}
    for part, there in {"config": (inner / CONFIG).is_file(), "tokenizer": has_vocabulary(inner)}.items():
        if not there and not base:
            raise UserError(f"{inner}: holds no {part} of the encoder. "
                            "Name the base encoder with --from_pretrained.")
        sources[part] = inner if there else base
    encoder = load_encoder(sources["config"], weights=False)
    return PretrainedEncoder(encoder, load_tokenizer(sources["tokenizer"]), **settings)


def _read_vocabulary(path: Path) -> Vocabulary:
    columns = _read_json(path)
    if not isinstance(columns, dict) or columns.keys() not in ({*DENSE_COLUMNS}, {*SPACED_COLUMNS}) or not all(
            isinstance(strings, list) and all(isinstance(s, str) for s in strings) for strings in columns.values()):
        raise UserError(f"{path}: is no vocabulary of feature columns. Copy it from the training, or train again.")
    return Vocabulary(columns)


def read_config(folder: Path) -> dict:
    """The config.json of any model folder.

    Raises:
        UserError: there is no such folder, or it holds none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder. Train one with train_ner.py, or name another folder.")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not a model folder, it holds no {CONFIG}. Name the folder train_ner.py wrote.")
    config = _read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG}: holds no JSON object. Name the folder train_ner.py wrote.")
    return config


def _own_config(folder: Path) -> dict:
    config = read_config(folder)
    if config.get("format") != FORMAT:
        names = config.get("architectures") or config.get("model_type") or "unknown"
        raise UserError(f"{folder / CONFIG}: not the configuration of a span model, but of {names}. Name a folder that "
                        "train_ner.py wrote, or a token-classification checkpoint; train_ner.py --from_pretrained takes "
                        "base encoders.")
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{folder / CONFIG}: format version {config.get('format_version')!r}, this program reads "
                        f"{FORMAT_VERSION}. Train the model again.")
    return config


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(f"{folder}: the model folder lacks {name}. Copy it from the training, or train again.")
    return folder / name


def _read_json(path: Path):
    return read_json(path, "Train the model again, or copy the file anew.", strict=False)


def _write_json(path: Path, value, *, ascii_only: bool = False) -> None:
    path.write_text(json.dumps(value, ensure_ascii=ascii_only, indent=1) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

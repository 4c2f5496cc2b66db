"""The recogniser SeamlessM4T v2 (transformers, PyTorch): speech in about a hundred languages, as text in that language
or in English.

The published weights (facebook/seamless-m4t-v2-large) may not be used commercially: CC-BY-NC-4.0. The model does not
detect the language, so the user names it, except for a translation into English. https://arxiv.org/abs/2312.05187
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.adapt.diffusers_folder import library
from helpers.catalog import ggml
from helpers.core import extras
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE
from helpers.listen.transcript import Transcript
from helpers.words import repetition

if TYPE_CHECKING:
    from helpers.listen.recognisers import Choice

MODEL_TYPE = "seamless_m4t_v2"
_ENGLISH = "eng"
# Its languages (ISO 639-3, one form of each) by the two-letter code. The model's generation_config.json decides.
_PAIRS = (
    "af:afr am:amh ar:arb as:asm az:azj be:bel bg:bul bn:ben bs:bos ca:cat cs:ces cy:cym da:dan de:deu el:ell "
    "en:eng es:spa et:est eu:eus fa:pes fi:fin fr:fra ga:gle gl:glg gu:guj he:heb hi:hin hr:hrv hu:hun hy:hye "
    "id:ind ig:ibo is:isl it:ita ja:jpn jv:jav ka:kat kk:kaz km:khm kn:kan ko:kor ky:kir lg:lug lo:lao lt:lit "
    "lv:lvs mk:mkd ml:mal mn:khk mr:mar ms:zlm mt:mlt my:mya nb:nob ne:npi nl:nld nn:nno no:nob ny:nya or:ory "
    "pa:pan pl:pol ps:pbt pt:por ro:ron ru:rus sd:snd sk:slk sl:slv sn:sna so:som sr:srp sv:swe sw:swh ta:tam "
    "te:tel tg:tgk th:tha tl:tgl tr:tur uk:ukr ur:urd uz:uzn vi:vie yo:yor yue:yue zh:cmn zu:zul"
)
CODES = dict(pair.split(":") for pair in _PAIRS.split())


@contextlib.contextmanager
def load(choice: Choice) -> Iterator[Seamless]:
    """The loaded recogniser. Raises: UserError 64 for a language that it does not know; 65 for a damaged model."""
    assert choice.path
    yield Seamless(choice.path, choice.language, choice.translate)


class Seamless:
    """SeamlessM4T v2. It is loaded when it is made, on an NVIDIA GPU in 16 bit or on the processor in 32."""

    languages, translates = "any", True

    def __init__(self, folder: Path, language: str = "en", translate: bool = False) -> None:
        """Load the model in `folder`. language: a code such as `de`; with `translate` it may be `auto`.

        Raises: UserError 64 for a language that it does not know, 65 for a damaged model, 69 for a missing package.
        """
        extras.require("seamless")
        self.name = f"SeamlessM4T {folder.name}"
        self._torch = library("torch")
        transformers = library("transformers")
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        on_gpu = self._torch.cuda.is_available()
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if config.get("model_type") != MODEL_TYPE:
                raise ValueError(f"it is a {config.get('model_type')}")
            self._model: Any = transformers.SeamlessM4Tv2ForSpeechToText.from_pretrained(
                folder,
                dtype=self._torch.float16 if on_gpu else self._torch.float32,
                local_files_only=True,
                use_safetensors=True,
            )
            self._features = transformers.SeamlessM4TFeatureExtractor.from_pretrained(folder, local_files_only=True)
            self._pieces = library("sentencepiece").SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
            known = self._model.generation_config.text_decoder_lang_to_code_id
        except Exception as error:  # torch, safetensors, sentencepiece and transformers have exceptions of their own
            why = str(error).partition("\n")[0]
            message = f"cannot load the SeamlessM4T model {folder}: {why}"
            raise UserError(os.EX_DATAERR, message, ggml.remedy(folder / "config.json")) from error
        self._model.to("cuda" if on_gpu else "cpu").eval()
        self._target = _ENGLISH if translate else CODES.get(language, language)
        self._spoken = "" if translate and language in ("auto", "en") else language
        if self._target not in known:
            remedy = "Give a code such as en, de or ja."
            raise UserError(os.EX_USAGE, f"SeamlessM4T does not know the language {language!r}", remedy)

    def transcribe(self, pcm: bytes) -> Transcript:
        """The words in `pcm` (s16le, 16 kHz, mono), possibly none, without endless repetitions."""
        import numpy as np

        samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32768
        samples = np.pad(samples, (0, max(0, RATE - len(samples))))  # too few for one step of the encoder
        features = self._features(samples, sampling_rate=RATE, return_tensors="pt")
        with self._torch.no_grad():
            found = self._model.generate(
                input_features=features["input_features"].to(self._model.device, self._model.dtype),
                attention_mask=features["attention_mask"].to(self._model.device),
                tgt_lang=self._target,
                return_dict_in_generate=True,
                output_scores=True,
            )
            scores = self._model.compute_transition_scores(
                found.sequences, found.scores, getattr(found, "beam_indices", None), normalize_logits=True
            )[0]
        text = repetition.sayable(self._decode(found.sequences[0].tolist()), len(pcm) / BYTES_PER_SECOND)
        logs = [score for score in scores.tolist() if math.isfinite(score)]
        confidence = math.exp(sum(logs) / len(logs)) if logs and text else None
        return Transcript(text, self._spoken, confidence)

    def _decode(self, tokens: list[int]) -> str:
        """The text of tokens. They are sentencepiece's plus one (for <pad>); what is above those names languages
        (transformers, tokenization_seamless_m4t.py)."""
        pieces = [token - 1 for token in tokens if 0 < token <= self._pieces.vocab_size()]
        return str(self._pieces.decode([piece for piece in pieces if not self._pieces.IsControl(piece)])).strip()

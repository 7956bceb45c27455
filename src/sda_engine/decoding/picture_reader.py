"""Pictures in forward passes: the vision tower's features of each are computed once, and rows of all requests share
them.

A model puts features in the place of image tokens by itself. It takes them ready made, as transformers' own `generate`
hands them over, so a pass needs no pixels: only the features of those image tokens that it reads.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sda_engine.decoding.attention import row_attention
from sda_engine.decoding.row_pictures import RowPictures
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.errors import MessageError
from sda_engine.models import Adapter, adapter_at_work
from sda_engine.tokens import PreparedPicture, is_of_picture, picture_spans
from sda_engine.tokens.picture_tokens import picture_token_id

_MOST_BYTES = 512 * 2**20  # of features that are kept
_FEATURES = "mm_encoder_outputs"
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest logit
_ROUGH_TOLERANCE = 0.1  # in dtypes of eight to eleven bits

_Key = tuple[int | None, int]  # the numbers of the adapter, None for the model as it was given, and of the picture
Forward = Callable[[Sequence[Segment]], list[Tensor]]
ModelInputs = dict[str, object]
Output = BaseModelOutputWithPooling


@dataclass(frozen=True, eq=False)
class PictureFeatures:
    """What a model's vision tower makes of one picture.

    Attributes:
        output: as the tower gave it, for its type.
        image: (tokens, size), in the place of the image tokens.
        deep: the same for the first layers of the decoder, to be added to their output; () in most models.
    """

    output: Output
    image: Tensor
    deep: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self.image.nbytes + sum(part.nbytes for part in self.deep)


class PictureReader:
    """Gives forward passes what they need of pictures. The worker thread alone uses it.

    The first picture of all shows that the model says by rows what it says by itself.

    Args:
        model: the model.
        forward: runs a pass over segments.

    Attributes:
        pictures_read: times that the vision tower ran.
    """

    def __init__(self, model: PreTrainedModel, forward: Forward) -> None:
        self._model = model
        self._forward = forward
        self._features: OrderedDict[_Key, PictureFeatures] = OrderedDict()
        self._bytes = 0
        self._refusal: str | None = None
        self._is_checked = False
        self.pictures_read = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of the features that are kept."""
        return self._bytes

    def forget(self) -> None:
        """Forget all features: the weights have changed."""
        self._features.clear()
        self._bytes = 0

    def inputs(self, segments: Sequence[Segment]) -> ModelInputs:
        """The inputs of a pass over segments, some of whose rows have pictures.

        Raises:
            MessageError: the model cannot be given pictures by rows.
        """
        token_ids = [token_id for segment in segments for token_id in segment.token_ids]
        device, image_token = self._model.device, self._model.config.image_token_id
        inputs: ModelInputs = {}
        if any(map(is_of_picture, token_ids)):  # first, since a model may be refused
            inputs[_FEATURES] = {"image": self._features_of(segments, token_ids)}
        known = [image_token if is_of_picture(token_id) else token_id for token_id in token_ids]
        inputs["input_ids"] = torch.tensor([known], device=device)
        inputs["position_ids"] = self._positions(segments).to(device)
        return inputs

    def _positions(self, segments: Sequence[Segment]) -> Tensor:
        """(1, tokens), or (axes, 1, tokens) where rows have pictures that stand in height and width."""
        parts = []
        for segment in segments:
            start = segment.row.length
            places = torch.arange(start, start + len(segment.token_ids))
            known = self._positions_of(segment.row)
            if known is None:
                parts.append(places.unsqueeze(0))
                continue
            ahead = int(known.max()) + 1 - known.shape[1]  # of tokens behind the prompt
            inside = known[:, start : start + len(places)]
            behind = places[inside.shape[1] :] + ahead
            parts.append(torch.cat([inside, behind.expand(len(known), -1)], dim=1))
        axes = max(len(part) for part in parts)
        positions = torch.cat([part.expand(axes, -1) for part in parts], dim=1)
        return positions if axes == 1 else positions.unsqueeze(1)

    def _positions_of(self, row: Row) -> Tensor | None:
        """(axes, prompt tokens); None where tokens simply stand one behind the other."""
        pictures = row.pictures
        index = getattr(self._model.base_model, "get_rope_index", None)
        if pictures is None or index is None:
            return None
        if pictures.positions is None:
            pictures.positions = _rope_positions(index, pictures, self._model.config.image_token_id)
        return pictures.positions

    def _features_of(self, segments: Sequence[Segment], token_ids: Sequence[int]) -> Output:
        """The features of the image tokens of a pass, as the model's own tower would give them."""
        wanted = {number for segment in segments for number in _numbers(segment.token_ids)}
        pictures = {
            number: segment.row.pictures.pictures[number]
            for segment in segments
            if segment.row.pictures is not None
            for number in segment.row.pictures.pictures
        }
        read = {number: self._read(pictures[number], segments[0].row.adapter) for number in sorted(wanted)}
        some = next(iter(read.values()))
        image_token = self._model.config.image_token_id
        image, deep = [], [list[Tensor]() for _ in some.deep]
        spans = {span.start: span for span in picture_spans(token_ids)}
        place = 0
        while place < len(token_ids):
            span = spans.get(place)
            if span is not None:
                features, first = read[span.number], span.first
                stop = first + span.stop - span.start
                image.append(features.image[first:stop])
                for parts, part in zip(deep, features.deep, strict=True):
                    parts.append(part[first:stop])
                place = span.stop
                continue
            if token_ids[place] == image_token:  # one that the model has written, which shows no picture
                own = self._model.get_input_embeddings()(torch.tensor([image_token], device=self._model.device))
                image.append(own.to(some.image.dtype))
                for parts, part in zip(deep, some.deep, strict=True):
                    parts.append(part.new_zeros(1, part.shape[-1]))
            place += 1
        return _as_output(some.output, torch.cat(image), [torch.cat(parts) for parts in deep])

    def _read(self, picture: PreparedPicture, adapter: Adapter | None) -> PictureFeatures:
        """The features of a picture under an adapter, computed where they are not kept."""
        if self._refusal is not None:
            raise MessageError(self._refusal)
        key = (None if adapter is None else adapter.number), picture.number
        if (known := self._features.get(key)) is not None:
            self._features.move_to_end(key)
            return known
        features = self._compute(picture, adapter)
        self._keep(key, features)
        if not self._is_checked:
            self._is_checked = True  # the check itself reads the picture
            try:
                self._check(picture, features, adapter)
            except BaseException:
                self._is_checked = False
                raise
        return features

    def _compute(self, picture: PreparedPicture, adapter: Adapter | None) -> PictureFeatures:
        tower = getattr(self._model.base_model, "get_image_features", None)
        if tower is None or _FEATURES not in inspect.signature(self._model.forward).parameters:
            raise self._refused("they do not take the features of pictures ready made")
        taken = inspect.signature(tower).parameters
        given = {name: value.to(self._model.device) for name, value in picture.inputs.items() if name in taken}
        self.pictures_read += 1
        with row_attention(self._model), adapter_at_work(self._model, adapter):  # no pass of another engine meanwhile
            output = tower(**given, return_dict=True)
        features = PictureFeatures(output, _flat(output.pooler_output), tuple(map(_flat, _deep(output))))
        if len(features.image) != picture.tokens:
            raise self._refused(
                f"their processor writes {picture.tokens} tokens for a picture of which the model makes "
                f"{len(features.image)}"
            )
        return PictureFeatures(_as_output(output, features.image[:0], []), features.image, features.deep)

    def _keep(self, key: _Key, features: PictureFeatures) -> None:
        self._features[key] = features
        self._bytes += features.nbytes
        while self._bytes > _MOST_BYTES and len(self._features) > 1:
            _, oldest = self._features.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _refused(self, reason: str, *, for_good: bool = True) -> MessageError:
        told = (
            f"The messages hold a picture, and models of type {self._model.config.model_type!r} cannot be given any "
            f"here: {reason}. Send text alone, or load a model of another type, such as Qwen2.5-VL, Qwen3-VL, Gemma 3, "
            f"SmolVLM, InternVL, LLaVA or Pixtral."
        )
        if for_good:
            self._refusal = told
        return MessageError(told)

    def _check(self, picture: PreparedPicture, features: PictureFeatures, adapter: Adapter | None) -> None:
        """Read the picture by rows, in pieces, and compare with the model's own forward pass.

        Raises:
            MessageError: the two do not agree.
        """
        ids = [int(token_id) for token_id in picture.inputs["input_ids"][0]]
        of_picture = iter(range(picture.tokens))
        image_token = self._model.config.image_token_id
        prompt = [picture_token_id(picture.number, next(of_picture)) if one == image_token else one for one in ids]
        row = Row(RowMemory(), adapter)
        row.pictures = RowPictures(prompt, {picture.number: picture})
        try:
            expected = self._own_logits(row, picture, features)
            while row.length < len(prompt):
                stop = row.pictures.end_of_piece(row.length, min(len(prompt), row.length + len(prompt) // 3 + 1))
                (last,) = self._forward([Segment(row, prompt[row.length : stop])])
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = f"a forward pass over one fails when it runs by rows ({error})"
            raise self._refused(reason, for_good=False) from error  # it may have been a hook of the user's
        finite = expected[expected.isfinite()]
        largest = float(finite.abs().max()) if finite.numel() else 0.0
        tolerance = _TOLERANCE.get(self._model.dtype, _ROUGH_TOLERANCE) * largest
        if not torch.allclose(last[-1].float().cpu(), expected, rtol=0.0, atol=tolerance, equal_nan=True):
            raise self._refused("they do more with pictures than the engine knows")

    def _own_logits(self, row: Row, picture: PreparedPicture, features: PictureFeatures) -> Tensor:
        """(vocab,) float32, on the CPU: what the model's own forward pass says comes after the picture's chat."""
        taken = inspect.signature(self._model.forward).parameters
        inputs: ModelInputs = {
            name: value.to(self._model.device)
            for name, value in picture.inputs.items()
            if name in taken and not name.startswith("pixel_")
        }
        inputs[_FEATURES] = {"image": _as_output(features.output, features.image, features.deep)}
        if (positions := self._positions_of(row)) is not None:  # else the model would count them, and remember them
            inputs["position_ids"] = positions.unsqueeze(1).to(self._model.device)
        with row_attention(self._model), adapter_at_work(self._model, row.adapter):
            output = self._model(**inputs, use_cache=False)
        last: Tensor = output.logits[0, -1]
        return last.float().cpu()


def _rope_positions(index: Callable[..., tuple[Tensor, Tensor]], pictures: RowPictures, image_token: int) -> Tensor:
    """(axes, tokens), on the CPU, as the model counts them."""
    prompt = pictures.prompt
    shown = [span.number for span in picture_spans(prompt) if span.first == 0]
    grids: Mapping[str, Tensor] = {
        name: torch.cat([pictures.pictures[number].inputs[name] for number in shown])
        for name in pictures.pictures[shown[0]].inputs
        if name.startswith("image_grid")
    }
    types = torch.tensor([[int(is_of_picture(token_id)) for token_id in prompt]])
    ids = torch.tensor([[image_token if is_of_picture(token_id) else token_id for token_id in prompt]])
    positions, _ = index(input_ids=ids, mm_token_type_ids=types, **grids)
    return positions[:, 0].cpu()


def _numbers(token_ids: Sequence[int]) -> set[int]:
    return {span.number for span in picture_spans(token_ids)}


def _flat(features: Tensor | Sequence[Tensor]) -> Tensor:
    """(tokens, size), of features that come in one tensor or in one for each picture or tile."""
    parts = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _deep(output: Output) -> Sequence[Tensor | Sequence[Tensor]]:
    return cast(Sequence[Tensor], getattr(output, "deepstack_features", None) or ())


def _as_output(like: Output, image: Tensor, deep: Sequence[Tensor]) -> Output:
    """Features as the model's own tower gives them: in one tensor, or in a list of them."""
    made = type(like)()
    made["pooler_output"] = image if isinstance(like.pooler_output, Tensor) else [image]
    if deep:
        made["deepstack_features"] = [[part] for part in deep]
    return made

import torch

from sda_engine.steering import precision
from sda_engine.steering.precision import in_widest


def test_values_are_computed_with_in_float64_wherever_the_device_has_it(monkeypatch):
    monkeypatch.setattr(precision, "_WITHOUT_FLOAT64", ("meta",))
    for dtype in (torch.bfloat16, torch.float32):
        assert in_widest(torch.ones(3, dtype=dtype)).dtype == torch.float64
        assert in_widest(torch.ones(3, dtype=dtype, device="meta")).dtype == torch.float32

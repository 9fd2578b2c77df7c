"""Tiny checkpoints of several architectures, saved once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import save_tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Any:
    place, made = tmp_path_factory.mktemp("streamed"), {}

    def get(kind: str, dtype: str = "float32") -> Path:
        if (kind, dtype) not in made:
            name = f"{kind}-{dtype}"
            made[kind, dtype] = save_tiny(kind, place / name, demo_folder, dtype=dtype)
        return made[kind, dtype]

    return get

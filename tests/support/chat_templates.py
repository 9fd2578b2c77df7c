"""Chat templates like published ones; tokenizers that add a start token, or none."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

_LOOP = "{% for m in messages %}"
_END = "{% endfor %}"
CHAT_TEMPLATES = {
    "plain": _LOOP + "{{ m.role }}: {{ m.content }}\n" + _END,
    "chatml": _LOOP
    + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "bos": "{{ bos_token }}" + _LOOP + "<{{ m.role }}>{{ m.content | trim }}" + _END,
    "llama2": _LOOP
    + "{% if m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}"
    + "{% else %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}{% endif %}"
    + _END,
    "gemma": "{{ bos_token }}"
    + _LOOP
    + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    + "{{ m.content | trim }}<end_of_turn>\n"
    + _END
    + "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "default_system": "{% if messages[0].role != 'system' %}system: Be kind.\n{% endif %}"
    + _LOOP
    + "{{ m.role }}: {{ m.content }}\n"
    + _END,
}


def with_start(tokenizer: Any, *, adds: bool, bos: str = "<s>") -> Any:
    """Return the demo's tokenizer with another start token, added to every text or never."""
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    token = tokenizer.convert_tokens_to_ids(bos)
    if adds:
        text = json.dumps(made["post_processor"]).replace('"<s>"', json.dumps(bos))
        made["post_processor"] = json.loads(text)
        made["post_processor"]["special_tokens"][bos]["ids"] = [token]
    else:
        names = ("add_prefix_space", "trim_offsets", "use_regex")
        made["post_processor"] = {"type": "ByteLevel"} | dict.fromkeys(names, False)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(made)),
        bos_token=bos,
        eos_token="</s>",
        pad_token="<pad>",
    )

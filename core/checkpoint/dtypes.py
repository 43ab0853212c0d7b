"""The element types a checkpoint can hold. Pure."""

# torch's name -> (safetensors' name, bytes)
_TYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
ITEM_SIZES = {name: size for name, (_, size) in _TYPES.items()}
SAFETENSORS_NAMES = {name: code for name, (code, _) in _TYPES.items()}


def convertible(saved: str, live: str) -> bool:
    """Whether a saved tensor may fill a live one of another type: only between floating-point types."""
    return saved == live or (saved.find("float") >= 0 and live.find("float") >= 0)

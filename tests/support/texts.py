"""Short documents that several tests measure."""

TEXTS = [
    "Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away. " * 3,
    "If it rains, then we stay at home because the road is wet.",
    "One morning in January, Maria found a warm telescope behind the market. " * 2,
    "9 * 3 = 27",
]

LONG = "Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away. "
STREAMED_TEXTS = [LONG * 3, "9 * 3 = 27", "If it rains, then we stay at home. " * 3]

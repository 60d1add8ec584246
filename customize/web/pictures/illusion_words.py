"""Illusions and views in the words of the page; their names are those of infer.py. No torch."""

VIEWS = {
    "identity": "as it is", "rotate_180": "upside down", "flip": "mirrored", "rotate_90_cw": "turned right",
    "rotate_90_ccw": "turned left", "jigsaw": "jigsaw", "inner_circle": "inner circle turned", "square_hinge": "hinged",
    "skew": "skewed", "patch_permute": "patches mixed", "pixel_permute": "pixels mixed", "negate": "negative",
}  # fmt: skip
"""Views of `illusions/views.py`, in words."""
KINDS = {
    "anagram": "seen in another way (anagram)", "looking_glass": "seen in another way, in pixels (looking glass)",
    "hybrid": "from far away and from near (hybrid)", "colour": "in grey and in colour", "motion": "when it moves and at rest",
}  # fmt: skip
PARTS = {"hybrid": ("From far away", "From near"), "colour": ("In grey", "In colour"), "motion": ("When it moves", "At rest")}
"""What the prompts of a sum of parts are, see `illusions/build.py`."""

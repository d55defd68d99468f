"""The 54 joints of a frame, and their places in an array ``(frames, 54, 2)``."""

from itertools import pairwise

BODY = (
    "nose",
    "neck",
    "rightEye",
    "leftEye",
    "rightEar",
    "leftEar",
    "rightShoulder",
    "leftShoulder",
    "rightElbow",
    "leftElbow",
    "rightWrist",
    "leftWrist",
)
HAND = (
    "wrist",
    *(f"{finger}{part}" for finger in ("index", "middle", "ring", "little") for part in ("Tip", "DIP", "PIP", "MCP")),
    *(f"thumb{part}" for part in ("Tip", "IP", "MP", "CMC")),
)
JOINTS = (*BODY, *(f"{joint}_0" for joint in HAND), *(f"{joint}_1" for joint in HAND))

JOINT_COUNT = len(JOINTS)
FRAME_SIZE = 2 * JOINT_COUNT

BODY_SLICE = slice(0, 12)
LEFT_HAND = slice(12, 33)
RIGHT_HAND = slice(33, 54)
HANDS = (LEFT_HAND, RIGHT_HAND)

NOSE, NECK = JOINTS.index("nose"), JOINTS.index("neck")
LEFT_EYE = JOINTS.index("leftEye")
RIGHT_SHOULDER, LEFT_SHOULDER = JOINTS.index("rightShoulder"), JOINTS.index("leftShoulder")

# Each arm from the body outwards; a joint turns all that come after it.
ARMS = tuple(
    tuple(JOINTS.index(name) for name in ("neck", f"{side}Shoulder", f"{side}Elbow", f"{side}Wrist"))
    for side in ("left", "right")
)

_BODY_BONES = (
    ("nose", "neck"),
    ("nose", "rightEye"),
    ("nose", "leftEye"),
    ("rightEye", "rightEar"),
    ("leftEye", "leftEar"),
    *(("neck", f"{side}Shoulder") for side in ("right", "left")),
    *((f"{side}Shoulder", f"{side}Elbow") for side in ("right", "left")),
    *((f"{side}Elbow", f"{side}Wrist") for side in ("right", "left")),
)
_FINGERS = (
    *(
        ("wrist", *(f"{finger}{part}" for part in ("MCP", "PIP", "DIP", "Tip")))
        for finger in ("index", "middle", "ring", "little")
    ),
    ("wrist", "thumbCMC", "thumbMP", "thumbIP", "thumbTip"),
)
# Pairs of joints that a drawing connects.
BONES = tuple(
    (JOINTS.index(start), JOINTS.index(end))
    for start, end in (
        *_BODY_BONES,
        *((f"{a}_{side}", f"{b}_{side}") for side in (0, 1) for finger in _FINGERS for a, b in pairwise(finger)),
    )
)

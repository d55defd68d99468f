"""The PAMAP2 recordings (Reiss & Stricker 2012, UCI 231): columns, activities, modalities."""

_IMU = (
    "temperature",
    *(f"{sensor}_{axis}" for sensor in ("acc16", "acc6", "gyro", "mag") for axis in "xyz"),
    *(f"orientation_{axis}" for axis in "wxyz"),
)
PLACES = ("hand", "chest", "ankle")
COLUMNS = ("timestamp", "activity", "heart_rate", *(f"{place}_{name}" for place in PLACES for name in _IMU))
# Everything but time and label, in the order of a file.
SENSORS = COLUMNS[2:]

RATE_HZ = 100.0
# Rows further apart than this belong to different bouts.
LARGEST_STEP_S = 0.1

OTHER = 0
ACTIVITIES = {
    OTHER: "other (transient)",
    1: "lying",
    2: "sitting",
    3: "standing",
    4: "walking",
    5: "running",
    6: "cycling",
    7: "Nordic walking",
    9: "watching TV",
    10: "computer work",
    11: "car driving",
    12: "ascending stairs",
    13: "descending stairs",
    16: "vacuum cleaning",
    17: "ironing",
    18: "folding laundry",
    19: "house cleaning",
    20: "playing soccer",
    24: "rope jumping",
}

# What a model reads. The 6 g accelerometer saturates, the orientation is declared invalid by the data set's
# readme, and the temperature tells subjects apart better than activities.
MODALITIES = {
    **{
        place: tuple(f"{place}_{sensor}_{axis}" for sensor in ("acc16", "gyro", "mag") for axis in "xyz")
        for place in PLACES
    },
    "heart_rate": ("heart_rate",),
}

# Rows of the complete data set after activity 0 is dropped, by subject; an import of all nine must find them.
FULL_ROWS = {
    101: 249_957,
    102: 263_349,
    103: 174_338,
    104: 231_421,
    105: 272_442,
    106: 250_096,
    107: 232_776,
    108: 262_102,
    109: 6_391,
}

"""Small hand-made ONNX graphs with exactly the inputs and outputs of the real models.

They hold no weights worth the name, yet answer smoothly to everything that matters: where clicks and boxes land, what
their labels are, what the image shows and where, what the text says, whether there is a padding point or an earlier
mask. A wrong coordinate frame, swapped axes, a forgotten normalisation or a missing input gives another mask.

Names of outputs are deliberately not the real ones where the contract gives only positions.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx_graph import BOOL, FLOAT, INT64, UINT8, Graph, Shape, floats

# All three in units of the models' square input, 1024 a side.
FRAME = 1024
CLICK_RADIUS = 160.0
EDGE = 24.0
LOW_RES = 256
# What both an empty earlier mask and no mask mean to the SAM decoders, unless a test asks otherwise.
NO_MASK = 0.3


def _blobs(graph: Graph, coords: str, labels: str) -> str:
    """Logits (1, 1, 256, 256) from clicks and a box.

    Hills under foreground clicks, hollows under background ones, a plateau in the box, and lower ground for each
    padding point, except beside a box, where osam has one and the authors have none.

    Args:
        graph: grows.
        coords: (1, N, 2) in a frame of 1024 x 1024.
        labels: (1, N) float.
    """
    centres = (np.arange(LOW_RES) + 0.5) * FRAME / LOW_RES
    grid_x, grid_y = graph.constant(centres.reshape(1, 1, 1, -1)), graph.constant(centres.reshape(1, 1, -1, 1))
    x, y = (graph.op("Unsqueeze", graph.op("Gather", coords, np.array(axis), axis=2), [2, 3]) for axis in (0, 1))
    labels = graph.op("Unsqueeze", labels, [2, 3])

    def labelled(value: float) -> str:
        return graph.op("Cast", graph.op("Equal", labels, np.float32(value)), to=FLOAT)

    def squared(grid: str, place: str) -> str:
        distance = graph.op("Sub", grid, place)
        return graph.op("Mul", distance, distance)

    distance = graph.op("Add", squared(grid_x, x), squared(grid_y, y))
    hills = graph.op("Exp", graph.op("Div", distance, np.float32(-2 * CLICK_RADIUS**2)))
    signs = graph.op("Sub", labelled(1), labelled(0))
    clicks = graph.total(graph.op("Mul", signs, hills), 1)

    def inside(grid: str, place: str) -> str:
        start = graph.total(graph.op("Mul", labelled(2), place), 1)
        stop = graph.total(graph.op("Mul", labelled(3), place), 1)
        after = graph.op("Sigmoid", graph.op("Div", graph.op("Sub", grid, start), np.float32(EDGE)))
        before = graph.op("Sigmoid", graph.op("Div", graph.op("Sub", stop, grid), np.float32(EDGE)))
        return graph.op("Mul", after, before)

    plateau = graph.op("Mul", inside(grid_x, x), inside(grid_y, y))
    box = graph.op("Mul", graph.total(labelled(2), 1), graph.op("Sub", plateau, np.float32(0.5)))
    no_box = graph.op("Sub", np.float32(1), graph.total(labelled(2), 1))
    ground = graph.op("Mul", graph.op("Mul", graph.total(labelled(-1), 1), no_box), np.float32(-2))
    return graph.op("Sum", graph.op("Mul", clicks, np.float32(5)), graph.op("Mul", box, np.float32(6)), ground)


def _image_size(graph: Graph, channels: int) -> str:
    """The sizes of (1, channels, height, width) from ``orig_im_size``."""
    return graph.op("Concat", [1, channels], graph.op("Cast", "orig_im_size", to=INT64), axis=0)


def _earlier_mask(graph: Graph, no_mask: float) -> str:
    """What Meta's exporters blend: ``has * embed(mask) + (1 - has) * no_mask``."""
    embedded = graph.op("Add", graph.op("Tanh", graph.op("Div", "mask_input", np.float32(4))), np.float32(NO_MASK))
    without = graph.op("Mul", graph.op("Sub", np.float32(1), "has_mask_input"), np.float32(no_mask))
    return graph.op("Add", graph.op("Mul", "has_mask_input", embedded), without)


def _spread(graph: Graph, logits: str, image: str, steps: Sequence[float]) -> tuple[str, str]:
    """Several masks of different extent, (1, M, 256, 256), and a score for each, (1, M), the largest in the middle."""
    masks = graph.op("Add", logits, np.array(steps, np.float32).reshape(1, -1, 1, 1))
    liking = 2.0 - np.abs(np.arange(len(steps)) - len(steps) // 2)
    mean = graph.op("Squeeze", graph.op("ReduceMean", image, axes=[2, 3], keepdims=1), [2, 3])
    return masks, graph.op("Sigmoid", graph.op("Add", mean, liking.reshape(1, -1)))


def sam_encoder(path: Path) -> Path:
    """SAM 1: ``x`` float32 (1, 3, 1024, 1024)."""
    graph = Graph()
    graph.channels(graph.pool("x", 16), 256, name="features")
    return graph.save(path, {"x": (FLOAT, (1, 3, FRAME, FRAME))}, {"features": (FLOAT, (1, 256, 64, 64))})


def sam_decoder(path: Path, no_mask: float = NO_MASK) -> Path:
    """SAM 1: one mask; the full-size one is resized to 1024, cropped to the image and resized again, as Meta does it.

    Args:
        path: where it goes.
        no_mask: what the graph adds where there is no earlier mask. An empty earlier mask adds ``NO_MASK``.
    """
    graph = Graph()
    image = graph.resize(graph.mixed("image_embeddings", 256), [1, 1, LOW_RES, LOW_RES])
    logits = graph.op(
        "Sum", _blobs(graph, "point_coords", "point_labels"), image, _earlier_mask(graph, no_mask), name="low"
    )
    square = graph.resize(logits, [1, 1, FRAME, FRAME])
    scale = graph.op("Div", np.float32(FRAME), graph.op("ReduceMax", "orig_im_size", keepdims=1))
    resized = graph.op("Floor", graph.op("Add", graph.op("Mul", "orig_im_size", scale), np.float32(0.5)))
    cropped = graph.op("Slice", square, [0, 0], graph.op("Cast", resized, to=INT64), [2, 3])
    graph.resize(cropped, _image_size(graph, 1), name="full")
    graph.op("Sigmoid", graph.op("ReduceMean", logits, axes=[2, 3], keepdims=0), name="quality")
    return graph.save(
        path,
        {
            "image_embeddings": (FLOAT, (1, 256, 64, 64)),
            "point_coords": (FLOAT, (1, "num_points", 2)),
            "point_labels": (FLOAT, (1, "num_points")),
            "mask_input": (FLOAT, (1, 1, LOW_RES, LOW_RES)),
            "has_mask_input": (FLOAT, (1,)),
            "orig_im_size": (FLOAT, (2,)),
        },
        {
            "full": (FLOAT, (1, 1, "height", "width")),
            "quality": (FLOAT, (1, 1)),
            "low": (FLOAT, (1, 1, LOW_RES, LOW_RES)),
        },
    )


def efficientsam_encoder(path: Path) -> Path:
    """EfficientSAM: ``batched_images`` float32 (B, 3, H, W) in 0..1, resized and normalised in the graph."""
    graph = Graph()
    batch = graph.op("Slice", graph.op("Shape", "batched_images"), [0], [1])
    square = graph.resize("batched_images", graph.op("Concat", batch, [3, FRAME, FRAME], axis=0))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    centred = graph.op("Sub", square, mean.reshape(1, 3, 1, 1))
    graph.channels(graph.pool(graph.op("Div", centred, std.reshape(1, 3, 1, 1)), 16), 256, name="features")
    return graph.save(
        path,
        {"batched_images": (FLOAT, ("batch", 3, "height", "width"))},
        {"features": (FLOAT, ("batch", 256, 64, 64))},
    )


def efficientsam_decoder(path: Path, *, flat_low: bool = False) -> Path:
    """EfficientSAM: points in pixels of the size it is told, three masks, the middle one scored best.

    Args:
        path: where it goes.
        flat_low: give the low-resolution masks without the axis of queries, as the authors' exporter writes it.
    """
    graph = Graph()
    turned = graph.op("Gather", graph.op("Cast", "orig_im_size", to=FLOAT), [1, 0])
    coords = graph.op("Squeeze", "batched_point_coords", [1])
    coords = graph.op("Div", graph.op("Mul", coords, np.float32(FRAME)), turned)
    image = graph.resize(graph.mixed("image_embeddings", 256), [1, 1, LOW_RES, LOW_RES])
    logits = graph.op("Add", _blobs(graph, coords, graph.op("Squeeze", "batched_point_labels", [1])), image)
    masks, scores = _spread(graph, logits, image, (-2.5, -1.5, -0.5))
    graph.op("Unsqueeze", graph.resize(masks, _image_size(graph, 3)), [1], name="full")
    graph.op("Unsqueeze", scores, [1], name="quality")
    low_shape: Shape = (1, 1, 3, LOW_RES, LOW_RES)
    graph.op("Reshape", masks, low_shape[1:] if flat_low else low_shape, name="low")
    return graph.save(
        path,
        {
            "image_embeddings": (FLOAT, ("batch", 256, 64, 64)),
            "batched_point_coords": (FLOAT, (1, 1, "num_points", 2)),
            "batched_point_labels": (FLOAT, (1, 1, "num_points")),
            "orig_im_size": (INT64, (2,)),
        },
        {
            "full": (FLOAT, (1, 1, 3, "height", "width")),
            "quality": (FLOAT, (1, 1, 3)),
            "low": (FLOAT, low_shape[1:] if flat_low else low_shape),
        },
    )


def sam2_encoder(path: Path) -> Path:
    """SAM 2.1: ``input`` float32 (1, 3, 1024, 1024), three feature maps."""
    graph = Graph()
    graph.channels(graph.pool("input", 16), 256, name="features")
    graph.channels(graph.pool("input", 4), 32, name="finest")
    graph.channels(graph.pool("input", 8), 64, name="finer")
    return graph.save(
        path,
        {"input": (FLOAT, (1, 3, FRAME, FRAME))},
        {
            "features": (FLOAT, (1, 256, 64, 64)),
            "finest": (FLOAT, (1, 32, 256, 256)),
            "finer": (FLOAT, (1, 64, 128, 128)),
        },
    )


def sam2_decoder(path: Path, no_mask: float = NO_MASK) -> Path:
    """SAM 2.1: four masks, the third scored best; the graph appends the padding point itself."""
    graph = Graph()
    size = [1, 1, LOW_RES, LOW_RES]
    image = graph.op(
        "Sum",
        graph.resize(graph.mixed("image_embeddings", 256), size),
        graph.mixed("high_res_features1", 32),
        graph.resize(graph.mixed("high_res_features2", 64), size),
    )
    padding = graph.op("Concat", "point_coords", np.zeros((1, 1, 2), np.float32), axis=1)
    labels = graph.op("Concat", "point_labels", np.full((1, 1), -1, np.float32), axis=1)
    logits = graph.op(
        "Sum",
        _blobs(graph, padding, labels),
        graph.op("Mul", image, np.float32(0.3)),
        _earlier_mask(graph, no_mask),
    )
    masks, scores = _spread(graph, logits, image, (-1.0, -0.5, 0.0, 0.5))
    graph.op("Identity", masks, name="low")
    graph.op("Identity", scores, name="quality")
    graph.resize(masks, _image_size(graph, 4), name="full")
    return graph.save(
        path,
        {
            "image_embeddings": (FLOAT, (1, 256, 64, 64)),
            "high_res_features1": (FLOAT, (1, 32, 256, 256)),
            "high_res_features2": (FLOAT, (1, 64, 128, 128)),
            "point_coords": (FLOAT, ("num_labels", "num_points", 2)),
            "point_labels": (FLOAT, ("num_labels", "num_points")),
            "mask_input": (FLOAT, ("num_labels", 1, LOW_RES, LOW_RES)),
            "has_mask_input": (FLOAT, ("num_labels",)),
            "orig_im_size": (INT64, (2,)),
        },
        {
            "full": (FLOAT, ("num_labels", 4, "height", "width")),
            "quality": (FLOAT, (1, 4)),
            "low": (FLOAT, ("num_labels", 4, LOW_RES, LOW_RES)),
        },
    )


SAM3_SIDE = 1008
SAM3_CHANNELS = 8
SAM3_MASK = 288
SAM3_CONTEXT = 32


def sam3_image_encoder(path: Path) -> Path:
    """SAM 3: ``image`` uint8 (3, 1008, 1008); six outputs, of which the first two are never used."""
    graph = Graph()
    pixels = graph.op("Unsqueeze", graph.op("Cast", "image", to=FLOAT), [0])
    pixels = graph.op("Sub", graph.op("Div", pixels, np.float32(127.5)), np.float32(1))
    outputs: dict[str, tuple[int, Shape]] = {}
    for level, side in enumerate((288, 144, 72)):
        rows = np.sin(np.arange(side) / side + np.arange(SAM3_CHANNELS)[:, None]).reshape(1, SAM3_CHANNELS, side, 1)
        columns = np.cos(np.arange(side) / side).reshape(1, 1, 1, side)
        graph.op("Mul", rows, columns, name=f"place_{level}")
        outputs[f"place_{level}"] = FLOAT, (1, SAM3_CHANNELS, side, side)
    for level, side in enumerate((288, 144, 72)):
        graph.channels(graph.resize(pixels, [1, 3, side, side]), SAM3_CHANNELS, name=f"look_{level}")
        outputs[f"look_{level}"] = FLOAT, (1, SAM3_CHANNELS, side, side)
    return graph.save(path, {"image": (UINT8, (3, SAM3_SIDE, SAM3_SIDE))}, outputs)


def sam3_language_encoder(path: Path) -> Path:
    """SAM 3: ``tokens`` int64 (1, 32); the mask is True where there is no token."""
    graph = Graph()
    graph.op("Equal", "tokens", np.int64(0), name="nothing")
    waves = np.linspace(0.001, 0.003, SAM3_CHANNELS).reshape(1, 1, -1)
    tokens = graph.op("Transpose", graph.op("Cast", "tokens", to=FLOAT), perm=[1, 0])
    graph.op("Sin", graph.op("Mul", graph.op("Unsqueeze", tokens, [2]), waves), name="meaning")
    graph.op("Identity", "meaning", name="unused")
    feature = (FLOAT, (SAM3_CONTEXT, 1, SAM3_CHANNELS))
    return graph.save(
        path,
        {"tokens": (INT64, (1, SAM3_CONTEXT))},
        {"nothing": (BOOL, (1, SAM3_CONTEXT)), "meaning": feature, "unused": feature},
    )


def sam3_decoder(path: Path, boxes: int | str = "num_boxes", keep: float = 0.05) -> Path:
    """SAM 3: up to four ellipses; the first one lies where the boxes lie on average.

    Args:
        path: where it goes.
        boxes: how many boxes it takes; a name leaves that open.
        keep: objects scored less are left out by the graph.
    """
    graph = Graph()
    weights = graph.op("Cast", graph.op("Not", "language_mask"), to=FLOAT)
    weights = graph.op("Unsqueeze", graph.op("Transpose", weights, perm=[1, 0]), [2])
    meaning = graph.op("Div", graph.total(graph.op("Mul", "language_features", weights), 0), graph.total(weights, 0))
    meaning = graph.op("Reshape", meaning, [SAM3_CHANNELS])

    def looks(features: str, axis: int, first: int, last: int) -> str:
        """Four means over one half of a feature map, so that turning the picture shows."""
        half = graph.op("Slice", features, [first], [last], [axis])
        means = graph.op("Reshape", graph.op("ReduceMean", half, axes=[2, 3]), [SAM3_CHANNELS])
        return graph.op("Tanh", graph.op("Slice", means, [0], [4]))

    wide = graph.op("Add", looks("backbone_fpn_0", 3, 0, 144), looks("backbone_fpn_2", 3, 36, 72))
    high = graph.op("Add", looks("backbone_fpn_1", 2, 0, 72), looks("vision_pos_enc_2", 2, 36, 72))
    words = graph.op("Slice", meaning, [0], [4])
    more_words = graph.op("Slice", meaning, [4], [8])
    radius_x = graph.op("Sum", floats(0.14, 0.12, 0.1, 0.15), _scaled(graph, wide, 0.02))
    radius_y = graph.op("Sum", floats(0.12, 0.14, 0.13, 0.1), _scaled(graph, high, 0.02))
    centre_x = graph.op("Add", floats(0.3, 0.7, 0.3, 0.7), _scaled(graph, words, 0.05))
    centre_y = graph.op("Add", floats(0.3, 0.35, 0.7, 0.65), _scaled(graph, more_words, 0.05))

    valid = graph.op("Cast", graph.op("Not", "box_masks"), to=FLOAT)
    positive = graph.op("Mul", valid, graph.op("Cast", "box_labels", to=FLOAT))
    count = graph.op("Reshape", graph.total(positive, 1), [1])
    total = graph.total(graph.op("Mul", "box_coords", graph.op("Unsqueeze", positive, [2])), 1)
    mean_box = graph.op("Div", graph.op("Reshape", total, [4]), graph.op("Max", count, floats(1)))
    prompted = graph.op("And", graph.op("Greater", count, floats(0.5)), np.array([True, False, False, False]))

    def of_box(place: int, otherwise: str, scale: float) -> str:
        value = graph.op("Mul", graph.op("Slice", mean_box, [place], [place + 1]), np.float32(scale))
        return graph.op("Where", prompted, value, otherwise)

    centre_x, centre_y = of_box(0, centre_x, 1.0), of_box(1, centre_y, 1.0)
    radius_x, radius_y = of_box(2, radius_x, 0.5), of_box(3, radius_y, 0.5)
    liking = graph.op("Add", _scaled(graph, words, 2.0), floats(1.0, 0.6, 0.2, -0.2))
    scores = graph.op("Sigmoid", graph.op("Add", liking, wide))

    grid = (np.arange(SAM3_MASK) + 0.5) / SAM3_MASK

    def across(axis: str, centre: str, radius: str) -> str:
        away = graph.op("Sub", axis, graph.op("Reshape", centre, [4, 1, 1, 1]))
        away = graph.op("Div", away, graph.op("Reshape", radius, [4, 1, 1, 1]))
        return graph.op("Mul", away, away)

    distance = graph.op(
        "Add",
        across(graph.constant(grid.reshape(1, 1, 1, -1)), centre_x, radius_x),
        across(graph.constant(grid.reshape(1, 1, -1, 1)), centre_y, radius_y),
    )
    masks = graph.op("Sigmoid", graph.op("Mul", graph.op("Sub", np.float32(1), distance), np.float32(4)))
    corners = [
        graph.op("Unsqueeze", graph.op(sign, centre, radius), [1])
        for sign in ("Sub", "Add")
        for centre, radius in ((centre_x, radius_x), (centre_y, radius_y))
    ]
    chosen = graph.op("Reshape", graph.op("NonZero", graph.op("Greater", scores, np.float32(keep))), [-1])
    graph.op("Gather", graph.op("Concat", *corners, axis=1), chosen, name="where")
    graph.op("Gather", scores, chosen, name="how_sure")
    graph.op("Gather", masks, chosen, name="which")
    features = {
        f"backbone_fpn_{level}": (FLOAT, (1, SAM3_CHANNELS, side, side)) for level, side in enumerate((288, 144, 72))
    }
    return graph.save(
        path,
        {
            **features,
            "vision_pos_enc_2": (FLOAT, (1, SAM3_CHANNELS, 72, 72)),
            "language_mask": (BOOL, (1, SAM3_CONTEXT)),
            "language_features": (FLOAT, (SAM3_CONTEXT, 1, SAM3_CHANNELS)),
            "box_coords": (FLOAT, (1, boxes, 4)),
            "box_labels": (INT64, (1, boxes)),
            "box_masks": (BOOL, (1, boxes)),
        },
        {
            "where": (FLOAT, ("num_objects", 4)),
            "how_sure": (FLOAT, ("num_objects",)),
            "which": (FLOAT, ("num_objects", 1, SAM3_MASK, SAM3_MASK)),
        },
    )


def _scaled(graph: Graph, values: str, factor: float) -> str:
    return graph.op("Mul", values, np.float32(factor))


YOLO_SIDE = 640
YOLO_CELLS = 20
YOLO_FEATURES = 512
YOLO_CONTEXT = 77


def yoloworld_textual(path: Path, *, quiet_background: bool = True) -> Path:
    """CLIP's text encoder: ``input`` int64 (T, 77), features (T, 512) that are not normalised.

    Args:
        path: where it goes.
        quiet_background: make the text of white space score low, since osam fails where it wins.
    """
    graph = Graph()
    tokens = graph.op("Cast", "input", to=FLOAT)
    waves = np.cos(np.arange(YOLO_CONTEXT)[:, None] * 1.3 + np.arange(YOLO_FEATURES) * 0.37) / 4000
    features = graph.op("Sin", graph.op("MatMul", tokens, waves))
    if quiet_background:
        third = graph.op("Slice", "input", [2], [3], [1])
        empty = graph.op("Cast", graph.op("Equal", third, np.int64(0)), to=FLOAT)
        first = np.zeros((1, YOLO_FEATURES), np.float32)
        first[0, 0] = -200
        features = graph.op("Add", features, graph.op("Mul", empty, first))
    graph.op("Mul", features, np.float32(3), name="features")
    return graph.save(
        path,
        {"input": (INT64, ("num_texts", YOLO_CONTEXT))},
        {"features": (FLOAT, ("num_texts", YOLO_FEATURES))},
    )


def yoloworld_yolo(path: Path) -> Path:
    """YOLO-World: ``images`` float32 (1, 3, 640, 640), an anchor in each of 20 x 20 cells, with overlapping boxes."""
    graph = Graph()
    cells = YOLO_CELLS * YOLO_CELLS
    colors = graph.pool("images", YOLO_SIDE // YOLO_CELLS)
    colors = graph.op("Transpose", graph.op("Reshape", colors, [3, cells]), perm=[1, 0])
    mixture = np.sin(np.arange(3)[:, None] * 1.9 + np.arange(YOLO_FEATURES) * 0.11) * 2
    mixture[:, 0] = 1.0
    anchors = graph.op("MatMul", colors, mixture)
    texts = graph.op("Transpose", graph.op("Squeeze", "text_features", [0]), perm=[1, 0])
    likeness = graph.op("MatMul", anchors, texts)
    # Each text competes with all, so that a missing one shows.
    rivals = graph.op("ReduceMean", likeness, axes=[1], keepdims=1)
    likeness = graph.op("Sub", likeness, _scaled(graph, rivals, 0.3))
    # Cells that look alike differ by this, so that no rounding decides which of them suppresses the other.
    own = 0.4 * np.sin(np.arange(cells) * 1.7).reshape(cells, 1) - 1
    scores = graph.op("Sigmoid", graph.op("Add", likeness, own))
    graph.op("Unsqueeze", scores, [0], name="scores")
    centres = (np.arange(YOLO_CELLS) + 0.5) * YOLO_SIDE / YOLO_CELLS
    x, y = (axis.reshape(cells, 1) for axis in np.meshgrid(centres, centres))
    half = graph.op("Add", graph.op("Mul", colors, np.float32(60)), np.float32(20))
    half_width = graph.op("Slice", half, [0], [1], [1])
    half_height = graph.op("Slice", half, [1], [2], [1])
    corners = [
        graph.op(sign, graph.constant(centre), extent)
        for sign in ("Sub", "Add")
        for centre, extent in ((x, half_width), (y, half_height))
    ]
    graph.op("Unsqueeze", graph.op("Concat", *corners, axis=1), [0], name="boxes")
    return graph.save(
        path,
        {
            "images": (FLOAT, (1, 3, YOLO_SIDE, YOLO_SIDE)),
            "text_features": (FLOAT, (1, "num_texts", YOLO_FEATURES)),
        },
        {"scores": (FLOAT, (1, cells, "num_texts")), "boxes": (FLOAT, (1, cells, 4))},
    )


FAMILIES: Mapping[str, Mapping[str, Callable[[Path], Path]]] = {
    "efficientsam": {"encoder": efficientsam_encoder, "decoder": efficientsam_decoder},
    "sam": {"encoder": sam_encoder, "decoder": sam_decoder},
    "sam2": {"encoder": sam2_encoder, "decoder": sam2_decoder},
    "sam3": {
        "image_encoder": sam3_image_encoder,
        "language_encoder": sam3_language_encoder,
        "decoder": sam3_decoder,
    },
    "yoloworld": {"textual": yoloworld_textual, "yolo": yoloworld_yolo},
}


def write_family(family: str, folder: Path) -> dict[str, Path]:
    """Write a family's graphs; their paths by role, as an adapter takes them."""
    return {role: build(folder / f"{family}-{role}.onnx") for role, build in FAMILIES[family].items()}

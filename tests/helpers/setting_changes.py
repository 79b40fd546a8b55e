"""Changes of single settings, by what a resume makes of them."""

CLIPS = "sources.clips={kind: video, root: clips}"  # class folders
LONG = "sources.clips={kind: untrimmed, root: clips, window_seconds: 0.4, weight: 2}"
FRAMES = "sources.clips={kind: frames, root: folders, list: folders.txt, pattern: 'a_{:03}.jpg'}"
NAMED = (
    "sources.clips={kind: video, root: ids, list: ids.csv, format: kinetics_csv,"
    " pattern: '{id}.mp4'}"
)
WARP = (
    "sources.photos={kind: image, root: photos, list: photos.txt, inflate: warp,"
    " motion: motion.json}"
)
BATCHES = [
    "sources.clips={kind: video, root: clips, list: clips.txt, batch: 4}",
    "train.batch=null",
    "sources.photos={kind: image, root: photos, list: photos.txt, batch: 2}",
]
TURNS = [*BATCHES, "train.step_mode=alternating", "train.ratio=[1,1]", "optimizer.accumulate=1"]
POWER = "sources.photos={kind: image, root: photos, list: photos.txt, resample: {power: 0.2}}"
CLIPPED = "sources.photos={kind: image, root: photos, list: photos.txt, resample: {clipped: 2}}"
PARTS = "sources.clips={kind: untrimmed, root: parts, list: parts.txt}"
WIDE = "sources.clips={kind: video, root: wide}"
SPLIT = "sources.clips={kind: video, root: clips, list: 'class 0_test_split1.txt'}"
TARS = "sources.photos={kind: image, root: shards, tars: '0.tar'}"

# field: [(settings before, the change, what the refusal says)]; these change the order, or what
# stands in it
ORDER = {
    "seed": [([], "seed=1", "seed: 0 became 1")],
    "classes": [
        (
            [CLIPS, "classes=names.txt"],
            "classes=swapped.txt",
            "sources.clips has its samples in another order, or",
        )
    ],
    "multi_label": [([], "multi_label=true", "multi_label: none became True")],
    "sources": [
        (
            [],
            "sources.shorts={kind: video, root: shorts, list: shorts.txt}",
            "sources.shorts is new",
        )
    ],
    "clip.clip_len": [([], "clip.clip_len=2", "clip.clip_len: 1 became 2")],
    "clip.frame_interval": [([], "clip.frame_interval=2", "clip.frame_interval: 1 became 2")],
    "clip.num_clips": [([], "clip.num_clips=3", "clip.num_clips: 2 became 3")],
    "clip.size": [([], "clip.size=40", "clip.size: 32 became 40")],
    "clip.crop": [([], "clip.crop=center", "clip.crop: random_resized became center")],
    "clip.area": [([], "clip.area=[0.5,1]", "clip.area: [0.08, 1.0] became [0.5, 1.0]")],
    "clip.flip": [([], "clip.flip=0.25", "clip.flip: 0.5 became 0.25")],
    "train.batch": [([], "train.batch=8", "train.batch (slots of a step): 6 became 8")],
    "train.step_mode": [
        (
            BATCHES,
            "train.step_mode=alternating optimizer.accumulate=1",
            "train.ratio: none became [1, 1]",
        )
    ],
    "train.ratio": [(TURNS, "train.ratio=[2,1]", "train.ratio: [1, 1] became [2, 1]")],
    "train.mixup": [
        ([], "train.mixup=cross", "train.mixup and mixup_alpha: none became [cross, 0.2]")
    ],
    "train.mixup_alpha": [
        (["train.mixup=intra"], "train.mixup_alpha=0.4", "[intra, 0.2] became [intra, 0.4]")
    ],
    "sources.*.kind": [
        (
            [CLIPS, "classes=names.txt"],
            LONG.replace("weight: 2", "weight: 1"),
            "sources.clips.kind: video became untrimmed",
        )
    ],
    "sources.*.root": [
        (
            [CLIPS, "classes=names.txt"],
            "sources.clips.root=other",
            "sources.clips had 9 samples and has 4, as its list",
        )
    ],
    "sources.*.links": [
        (
            ["sources.photos.list=linked.txt"],
            "sources.photos.links=follow",
            "sources.photos had 14 samples and has 15",
        )
    ],
    "sources.*.split": [
        (
            [SPLIT, "classes=names.txt"],
            "sources.clips.split=test",
            "sources.clips had 2 samples and has 1",
        )
    ],
    "sources.*.list": [
        ([], "sources.photos.list=fewer.txt", "sources.photos had 14 samples and has 10"),
        ([], "sources.photos.list=reversed.txt", "sources.photos has its samples in another order"),
        (
            [],
            "sources.photos.list=relabelled.txt",
            "sources.photos has other labels, with other numbers",
        ),
        ([], "sources.photos.list=renamed.txt", "sources.photos has other paths in its list"),
        ([PARTS], "sources.clips.list=parts2.txt", "sources.clips has other paths in its list"),
    ],
    "sources.*.format": [
        (
            [
                NAMED.replace("kinetics_csv", "path_label").replace("ids.csv", "plain.txt"),
                "classes=names.txt",
            ],
            NAMED,
            "sources.clips had 3 samples and has 2",
        )
    ],
    "sources.*.tars": [
        ([TARS], "sources.photos.tars='*.tar'", "sources.photos had 2 samples and has 4")
    ],
    "sources.*.pattern": [
        (
            [FRAMES],
            "sources.clips.pattern='b_{:03}.jpg'",
            "sources.clips.pattern: a_{:03}.jpg became b_{:03}",
        ),
        (
            [NAMED, "classes=names.txt"],
            "sources.clips.pattern='{id}.mkv'",
            "sources.clips had 2 samples and has 1",
        ),
    ],
    "sources.*.pixel_aspect": [
        (
            [WIDE, "classes=names.txt"],
            "sources.clips.pixel_aspect=apply",
            "sources.clips has files of other sizes or lengths",
        )
    ],
    "sources.*.labels": [
        (
            ["sources.photos.labels=same.txt"],
            "sources.photos.labels=map.txt",
            "sources.photos has other labels",
        )
    ],
    "sources.*.window_seconds": [
        (
            [LONG, "classes=names.txt"],
            "sources.clips.window_seconds=0.8",
            "sources.clips had 34 pieces and has 18, as its list or window_seconds changed",
        )
    ],
    "sources.*.pieces": [
        (
            [LONG, "classes=names.txt"],
            "sources.clips.pieces=one_positive_rest_negative",
            "pieces: positive became one_positive",
        )
    ],
    "sources.*.weight": [([], "sources.photos.weight=2", "sources.photos.weight: 1.0 became 2.0")],
    "sources.*.batch": [(BATCHES, "sources.photos.batch=4", "sources.photos.batch: 2 became 4")],
    "sources.*.resample": [([], CLIPPED, "sources.photos.resample: none became clipped 2")],
    "sources.*.resample.power": [
        ([POWER], "sources.photos.resample.power=0.5", "resample.power: 0.2 became 0.5")
    ],
    "sources.*.resample.clipped": [
        ([CLIPPED], "sources.photos.resample.clipped=3", "resample.clipped: 2 became 3")
    ],
    "sources.*.fraction": [
        (
            [],
            "sources.photos.fraction=0.5",
            "sources.photos: all samples became fraction 0.5 of seed 0",
        )
    ],
    "sources.*.hold_out": [
        (
            [],
            "sources.photos.hold_out=[1,2]",
            "sources.photos: all samples became without part 1 of 2",
        ),
        (
            ["sources.photos.hold_out=[1,2]"],
            "sources.photos.hold_out=[2,2]",
            "without part 1 of 2 became without part 2 of 2",
        ),
    ],
    "sources.*.inflate": [
        ([], "sources.photos.inflate=still", "sources.photos.inflate: single became still")
    ],
    "sources.*.motion": [([WARP], "sources.photos.motion=null", "sources.photos.motion: ")],
    "sources.*.motion_per_class": [
        ([WARP], "sources.photos.motion_per_class=true", "sources.photos.motion: ")
    ],
}

# field: [(settings before, the change)]; the order stays
HARMLESS = {
    "data_root": [([], "data_root={copy}")],
    "run_dir": [([], "run_dir=elsewhere")],
    "catalog": [([], "catalog={tmp}/other.sqlite")],
    **{
        name: [([], f"{name}={value}")]
        for name, value in {
            "device": "cpu",
            "model.name": "slowonly",
            "model.backbone": "helpers.tiny_networks:maps",
            "model.options": '{{"width":6}} model.backbone=helpers.tiny_networks:maps',
            "model.mean": "[0,0,0] model.std=[1,1,1] model.backbone=helpers.tiny_networks:maps",
            "model.std": "[1,1,1] model.mean=[0,0,0] model.backbone=helpers.tiny_networks:maps",
            "model.depth": 34,
            "model.dropout": 0.1,
            "model.pretrained": "w.pth",
            "model.pretrained_head": "fresh",
            "model.norm": "target_only",
            "model.sync_norm": "true",
            "model.channels_last": "false",
            "optimizer.lr": 0.5,
            "optimizer.momentum": 0.5,
            "optimizer.weight_decay": 0.5,
            "optimizer.nesterov": "true",
            "optimizer.name": "adamw",
            "optimizer.betas": "[0.8,0.9] optimizer.name=adamw",
            "optimizer.eps": "0.1 optimizer.name=adamw",
            "optimizer.decay_norms": "false",
            "optimizer.layer_decay": 0.5,
            "optimizer.lr_factors": "{{head: 2}}",
            "optimizer.frozen_stages": 1,
            "optimizer.clip_grad_norm": 1.0,
            "optimizer.schedule": "cosine",
            "optimizer.milestones": "[1.0]",
            "optimizer.warmup_epochs": 3,
            "optimizer.accumulate": 1,
            "train.epochs": "5 train.steps=null",
            "train.steps": 99,
            "train.label_smoothing": 0.1,
            "train.augment.color_jitter.probability": 0.5,
            "train.augment.color_jitter.brightness": 0.5,
            "train.augment.color_jitter.contrast": 0.5,
            "train.augment.color_jitter.saturation": 0.5,
            "train.augment.color_jitter.hue": 0.5,
            "train.augment.randaugment.count": 2,
            "train.augment.randaugment.magnitude": 5,
            "train.augment.randaugment.magnitude_std": 1,
            "train.augment.randaugment.probability": 0.5,
            "train.augment.erasing.probability": 0.5,
            "train.augment.erasing.mode": "rand",
            "train.augment.erasing.boxes": 3,
            "train.augment.erasing.area": "[0.1,0.2]",
            "train.augment.erasing.aspect": "[0.5,2]",
            "train.keep_best": 2,
            "train.patience": 3,
            "train.min_delta": "0.5 train.patience=3",
            "train.max_hours": 5,
            "logger": "csv",
            "train.precision": "bf16",
            "train.compile": "true",
            "train.ema": "null",
            "train.log_every": 7,
            "train.checkpoint_every": 7,
            "train.keep_every": 7,
            "train.checkpoint_minutes": 7,
            "train.final_save_minutes": 7,
            "loader.threads": 3,
            "loader.prefetch": 5,
            "loader.max_bad_ratio": 0.5,
            "loader.max_bad_in_a_row": 3,
            "loader.hang_seconds": 5,
            "loader.stall_seconds": 5,
            "sources.*.loss_weight": 3,
            "sources.*.group": "web",
            "evaluation.source": "null",
            "evaluation.batch": 3,
            "evaluation.every_epochs": 3,
            "evaluation.every_steps": 3,
            "evaluation.validation.num_clips": 1,
            "evaluation.validation.positions": "ends",
            "evaluation.validation.crops": "three",
            "evaluation.validation.size": 24,
            "evaluation.validation.short_side": 48,
            "evaluation.validation.average": "prob",
            "evaluation.test.num_clips": 1,
            "evaluation.test.positions": "ends",
            "evaluation.test.crops": "ten",
            "evaluation.test.size": 24,
            "evaluation.test.short_side": 48,
            "evaluation.test.average": "prob",
        }.items()
    },
    "sources.*.root": [([], "sources.photos.root={copy}/photos")],
    "sources.*.list": [([], "sources.photos.list={copy}/photos.txt")],
}

# the order stays, but other decoders give slightly other pixels, which the resume says
HYBRID = "sources.photos={kind: image, root: photos, list: photos.txt, decode: hybrid}"
PIXELS = {
    "sources.*.decode": [
        (
            [],
            "sources.photos.decode=dali",
            "by nvImageCodec and OpenCV on the CPU; now photos: jpeg by DALI on the CPU",
        )
    ],
    "loader.cpu_share": [
        (
            [HYBRID],
            "loader.cpu_share=0.5",
            "of every 100 slots, 25 by nvImageCodec and OpenCV on the CPU",
        )
    ],
}

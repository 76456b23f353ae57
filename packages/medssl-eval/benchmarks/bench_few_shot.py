"""Few-shot against the 2022 study's way: encoding every episode's images anew, one loop an episode.

    python packages/medssl-eval/benchmarks/bench_few_shot.py [--model random_r50] [--sample 2]

Two ratios: end to end (138 images, 2-way 20-shot 15-query, 600 episodes), where the slow side is
extrapolated from a sample of episodes; and the 600 episodes alone on cached features (D = 2048)
against plain loops over episodes. Prints both and one line of JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from medssl_data import ImageDataset, load_dataset
from medssl_eval import EpisodePlan, EpisodePool, FewShotSettings, few_shot, plan_episodes
from medssl_eval.experiments.few_shot import count_correct
from medssl_eval.experiments.influences import few_shot_influences
from medssl_models import Backbone, create_model

WAYS, SHOTS, QUERIES, EPISODES, IMAGES = 2, 20, 15, 600, 138


def seconds(function: Callable[[], object], *, repeats: int = 1) -> tuple[float, object]:
    """Give the median wall time of some calls, and the last result."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), result


def encode_anew(backbone: Backbone, data: ImageDataset, plan: EpisodePlan, sample: int) -> None:
    """Do what the study's script does: read and encode the images of every episode."""
    for episode in range(sample):
        rows = np.concatenate([plan.support[episode].ravel(), plan.query[episode].ravel()])
        images = torch.stack([backbone.preprocessing(data[int(row)][0]) for row in rows])
        with torch.no_grad():
            features = backbone(images)
        support = features[: WAYS * SHOTS].view(WAYS, SHOTS, -1)
        query = features[WAYS * SHOTS :]
        torch.cdist(query, support.mean(dim=1)).square().argmin(dim=1)


def loop_in_numpy(features: np.ndarray, plan: EpisodePlan) -> np.ndarray:
    """Evaluate one episode after the other, as tightly as NumPy allows."""
    expected = np.repeat(np.arange(plan.ways), plan.queries)
    correct = []
    for support, query in zip(plan.support, plan.query, strict=True):
        prototypes = features[support].mean(axis=1)
        differences = features[query.ravel()][:, None] - prototypes
        correct.append(((differences**2).sum(axis=2).argmin(axis=1) == expected).sum())
    return np.array(correct)


def loop_in_torch(features: np.ndarray, plan: EpisodePlan) -> np.ndarray:
    """Evaluate one episode after the other, as few-shot libraries do."""
    features = torch.from_numpy(features)
    expected = torch.arange(plan.ways).repeat_interleave(plan.queries)
    correct = []
    for support, query in zip(plan.support, plan.query, strict=True):
        prototypes = torch.stack([features[torch.from_numpy(rows)].mean(dim=0) for rows in support])
        distances = torch.cdist(features[torch.from_numpy(query.ravel())], prototypes).square()
        scores = (-distances).log_softmax(dim=1)
        correct.append(int((scores.argmax(dim=1) == expected).sum()))
    return np.array(correct)


def end_to_end(model: str, sample: int) -> tuple[float, float]:
    """Time the whole of both ways on phantom radiographs."""
    backbone = create_model(model)
    data = load_dataset("phantom:chest-xray,count=200").select(range(IMAGES))
    settings = FewShotSettings(
        shots=(SHOTS,), queries=QUERIES, episodes=EPISODES, patients="ignored"
    )
    plan = plan_episodes(
        EpisodePool.of(data.labels, WAYS), ways=WAYS, shots=SHOTS, episodes=EPISODES
    )
    backbone(backbone.preprocessing(data[0][0])[None])  # plans the kernels
    slow, _ = seconds(lambda: encode_anew(backbone, data, plan, sample))
    fast, _ = seconds(lambda: few_shot(backbone, data, settings=settings))
    return slow / sample * EPISODES, fast


def on_features() -> dict[str, float]:
    """Time the episodes alone; the ways take turns, so that other load hits all of them."""
    rng = np.random.default_rng(0)
    labels = np.arange(IMAGES) % WAYS
    features = rng.normal(size=(IMAGES, 2048)).astype(np.float32)
    features[labels == 1] += 0.02
    pool = EpisodePool.of(labels, WAYS)
    plan = plan_episodes(pool, ways=WAYS, shots=SHOTS, queries=QUERIES, episodes=EPISODES)
    ways = {"batched": count_correct, "numpy": loop_in_numpy, "torch": loop_in_torch}
    times = {name: [] for name in ways}
    for _ in range(7):
        results = {}
        for name, way in ways.items():
            duration, results[name] = seconds(lambda way=way: way(features, plan))
            times[name].append(duration)
        assert all(np.array_equal(results["batched"], other) for other in results.values())
    planning, _ = seconds(
        lambda: plan_episodes(pool, ways=WAYS, shots=SHOTS, queries=QUERIES), repeats=5
    )
    names = [f"image {row:04d}" for row in range(IMAGES)]
    correct = results["batched"]
    interval, _ = seconds(
        lambda: few_shot_influences(features, pool, names, plan, correct, seed=[0]), repeats=5
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians | {"plan": planning, "interval": interval}


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="random_r50")
    parser.add_argument("--sample", type=int, default=2, help="episodes of the slow side")
    options = parser.parse_args()
    times = on_features()
    slow, fast = end_to_end(options.model, options.sample)
    forwards = EPISODES * WAYS * (SHOTS + QUERIES) / IMAGES
    print(f"end to end, {options.model}: {slow:.0f} s (from {options.sample} episodes)", end=" ")
    print(f"against {fast:.1f} s: {slow / fast:.0f} times (forward passes alone: {forwards:.0f})")
    print(f"600 episodes on features: {1000 * times['batched']:.1f} ms", end=" ")
    print(f"(and {1000 * times['plan']:.1f} ms once to plan them for all models,", end=" ")
    print(f"{1000 * times['interval']:.0f} ms for the interval over images);", end=" ")
    print(f"{times['torch'] / times['batched']:.0f} times a loop in torch,", end=" ")
    print(f"{times['numpy'] / times['batched']:.0f} times a tight loop in NumPy")
    outcome = {"benchmark": "few_shot", "model": options.model, "sample": options.sample}
    outcome |= {"end_to_end_ratio": slow / fast, "slow_s": slow, "fast_s": fast}
    outcome |= {f"episodes_{name}_s": value for name, value in times.items()}
    outcome |= {"episodes_ratio_numpy": times["numpy"] / times["batched"]}
    outcome |= {"episodes_ratio_torch": times["torch"] / times["batched"]}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()

"""Everything computed once: from the results of one experiment to the frames that terminal, JSON and HTML share."""

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

from analysis import audit, claims, compare, crossover, curves, factorial, statistics
from analysis.design import Design
from analysis.run import Failure, Run
from tune_ablation.errors import UserError
from tune_ablation.records import COSTS

SECONDARY = ("test_loss", "test_acc5", "test_f1", "gap_acc1", "gap_loss", "epochs_to_target")
"""What cells are contrasted on besides the metric asked for, as far as there is such a quantity: a second family."""

CROSSED = ("test_loss", "test_acc1")
"""Metrics whose curves are searched for crossovers, besides the one asked for."""


@dataclass(frozen=True)
class Analysis:
    """All that is known about one experiment, or about one foreign folder.

    Attributes:
        run: the results it is about.
        quantity: what contrasts and effects are about, e.g. ``test_acc1_final``.
        higher_is_better: of that quantity.
        target: the common target of the primary metric; None while there is no finished baseline trial.
        target_trials: how many baseline trials the target rests on.
        standing: one row per planned trial, from ``compare.states``.
        trials: one row per trial with every per-trial quantity, from ``curves.trials`` and ``curves.convergence``.
        cells: one row per cell, from ``compare.cells``.
        summaries: every quantity of every cell over seeds, long, from ``compare.summaries``.
        curves: confirm trials that did not diverge, one row per cell, trial, epoch and metric, from ``curves.by_epoch``.
        bands: the same over seeds: ``cell``, ``metric``, ``epoch``, ``n``, ``mean``, ``sd``, ``low``, ``high``.
        reached: share of seeds that reached the target by epoch, from ``curves.reached_by``.
        responses: learning-rate response of every cell, from ``compare.responses``.
        costs: static figures of every cell, from the run header: ``cell`` and ``tune_ablation.records.COSTS``; no rows where unknown.
        contrasts: the primary family, from ``compare.contrasts``: one quantity, the pairs asked for.
        secondary: the same pairs on ``SECONDARY``, a family of its own.
        effects: main effects and interactions, from ``factorial.effects``.
        crossovers: from ``crossover.crossovers``.
        claims: rulings, in the experiment file's order.
        findings: the audit.
    """

    run: Run
    quantity: str
    higher_is_better: bool
    target: float | None
    target_trials: int
    standing: pl.DataFrame
    trials: pl.DataFrame
    cells: pl.DataFrame
    summaries: pl.DataFrame
    curves: pl.DataFrame
    bands: pl.DataFrame
    reached: pl.DataFrame
    responses: pl.DataFrame
    costs: pl.DataFrame
    contrasts: pl.DataFrame
    secondary: pl.DataFrame
    effects: pl.DataFrame
    crossovers: pl.DataFrame
    claims: tuple[claims.Ruling, ...]
    findings: tuple[audit.Finding, ...]

    @property
    def design(self) -> Design:
        """What was compared with what."""
        return self.run.design

    @property
    def planned(self) -> int:
        """Number of trials of the plan."""
        return self.standing.height

    @property
    def finished(self) -> int:
        """Number of trials that ran to their last epoch or diverged."""
        return self.standing.filter(pl.col("state") == "finished").height

    @property
    def failures(self) -> list[Failure]:
        """Failed trials that have not been finished since."""
        failed = set(self.standing.filter(pl.col("state") == "failed")["trial"])
        return [failure for failure in self.run.failures if failure.trial in failed]

    def summary(self, cell: str, quantity: str) -> dict[str, float | None]:
        """``n``, ``mean``, ``sd``, ``low`` and ``high`` of a quantity of a cell; all None where there is none."""
        found = self.summaries.filter((pl.col("cell") == cell) & (pl.col("quantity") == quantity)).to_dicts()
        return {name: found[0][name] if found else None for name in ("n", "mean", "sd", "low", "high")}


def analyse(run: Run, metric: str | None = None, *, every_pair: bool = False) -> Analysis:
    """Compute everything.

    Args:
        run: the results.
        metric: what contrasts and effects are about: a metric (its final value is meant), or a name of ``curves.quantities``; left
            out, the design's primary metric.
        every_pair: contrast all pairs of cells; else every cell with the baseline of its other levels.

    Raises:
        UserError: there is no such metric.
    """
    design = run.design
    better = curves.quantities(design)
    quantity = quantity_of(metric or design.primary, better)
    if quantity is None:
        raise UserError(f"--metric: given {metric!r}, allowed: {', '.join(better)}; a metric alone means its final value")
    epochs, everything = run.epochs, curves.trials(run.epochs, design)
    target, target_trials = compare.target(everything, design)
    speed = curves.convergence(epochs, design, target, run.train_images)
    trials = everything.join(speed, on="trial", how="left", maintain_order="left")
    damaged = [problem.trial for problem in run.problems if problem.trial is not None]
    standing = compare.states(run.plan, trials, [failure.trial for failure in run.failures], damaged)
    responses = compare.responses(trials, design)
    fixed = run.experiment.recipe.lr if run.experiment is not None else None
    cells = compare.cells(standing, trials, compare.learning_rates(responses, design, fixed), design)
    by_epoch = curves.by_epoch(epochs, design)
    pairs = design.all_pairs() if every_pair else design.baseline_pairs()
    secondary = [name for name in (curves.quantity(name, "final") for name in SECONDARY) if name in better and name != quantity]
    costs = _costs(run)
    finished = set(trials.filter("finished")["trial"])
    whole = by_epoch.filter(pl.col("trial").is_in(finished))
    crossed = {name: higher for name, higher in curves.curve_names(design).items() if name in (*CROSSED, design.primary)}
    material = claims.Material(design, trials, whole, {row["cell"]: row for row in costs.iter_rows(named=True)})
    return Analysis(
        run=run,
        quantity=quantity,
        higher_is_better=better[quantity],
        target=target,
        target_trials=target_trials,
        standing=standing,
        trials=trials,
        cells=cells,
        summaries=compare.summaries(trials, design),
        curves=by_epoch,
        bands=statistics.summarise(by_epoch, ["cell", "metric", "epoch"]),
        reached=curves.reached_by(trials, design),
        responses=responses,
        costs=costs,
        contrasts=compare.contrasts(trials, pairs, {quantity: better[quantity]}),
        secondary=compare.contrasts(trials, pairs, {name: better[name] for name in secondary}),
        effects=factorial.effects(trials, design, quantity, higher_is_better=better[quantity]),
        crossovers=crossover.crossovers(
            crossover.differences(whole.filter(pl.col("metric").is_in(list(crossed))), design.all_pairs()), design, crossed
        ),
        claims=claims.rule(material),
        findings=audit.audit(run, cells, trials, whole),
    )


def quantity_of(metric: str, known: Collection[str]) -> str | None:
    """The quantity that is meant by a name: its own, or the final value of a metric; None where it is neither."""
    return next((name for name in (metric, f"{metric}_final") if name in known), None)


def _costs(run: Run) -> pl.DataFrame:
    """Static figures from the header; what is not as it should be there is left out."""
    rows = []
    described = run.header.get("cells")
    for cell in described if isinstance(described, list) else []:
        profile = cell.get("profile") if isinstance(cell, dict) else None
        if isinstance(profile, dict) and cell.get("key") in run.design.cells and all(isinstance(profile.get(name), int) for name in COSTS):
            rows.append({"cell": cell["key"], **{name: profile[name] for name in COSTS}})
    return pl.DataFrame(rows, {"cell": pl.String, **dict.fromkeys(COSTS, pl.Int64)})

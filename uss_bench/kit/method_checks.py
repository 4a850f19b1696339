"""The checks of a method: what `uss_bench.contracts.Method` promises, one by one."""

from __future__ import annotations

from uss_bench.errors import UsageError
from uss_bench.kit import label_checks, prediction_checks, training_checks
from uss_bench.kit.checks import Check, Finding, check, failed, note, ok
from uss_bench.kit.options import check_signature
from uss_bench.kit.trial import Trial
from uss_bench.plugins.params import check_least, check_options

_CALLS = ("train", "embed", "classify", "state_dict", "load_state_dict")


@check()
def spec(trial: Trial) -> Finding:
    if not trial.spec.inputs or "aux:" in trial.spec.inputs:
        todo = "Name what embed reads: image, aux:NAME or facets."
        return failed(f"inputs = {trial.spec.inputs}", todo)
    return ok("spec.toml is valid")


@check(name="import", todo="Correct the entry of spec.toml, or what the file does when it is imported.")
def imports(trial: Trial) -> Finding:
    entry = trial.plugin.load()
    missing = [name for name in _CALLS if not callable(getattr(entry, name, None))]
    if missing:
        todo = "A method has " + ", ".join(_CALLS) + ": see uss_bench.contracts.Method."
        return failed(f"{trial.spec.entry} has no {', '.join(missing)}", todo)
    return ok(f"{trial.spec.entry} has {', '.join(_CALLS)}")


@check(needs="import")
def parameters(trial: Trial) -> Finding:
    entry, spec = trial.plugin.load(), trial.spec
    found = check_signature(entry)
    if found.status != "ok":
        return found
    given = {f"preset '{preset.name}'": preset.params for preset in spec.presets} | {
        "[check]": spec.check.params
    }
    for owner, params in given.items():
        try:
            check_options(entry, params, owner, "params:")
            check_least(params, spec.minimum, owner)
        except UsageError as error:
            return failed(error.what, f"Correct {owner} in spec.toml.")
    if unknown := sorted(spec.minimum.keys() - trial.known):
        return failed(f"`minimum` names no parameter: {', '.join(unknown)}", "Correct it in spec.toml.")
    return ok(f"{found.text}: their types refuse other values" + "; presets conform" * bool(spec.presets))


@check(needs="parameters", todo="Name image, aux:NAME or facets of the backbone.")
def inputs(trial: Trial) -> Finding:
    return ok(f"embed reads {', '.join(trial.setup().inputs)} of {trial.backbone.name}")


@check(needs="training")
def curves(trial: Trial) -> Finding:
    if found := trial.trained.context.curves:
        return ok(f"it reports {', '.join(found)}")
    return note("it reports no curve", "ctx.report(step, loss=loss) puts one into the record.")


@check(needs="training")
def checkpoints(trial: Trial) -> Finding:
    if found := trial.trained.offers:
        return ok(f"it offered {len(found)}")
    todo = "ctx.checkpoint(step) offers one, to see what choosing it by labels would gain."
    return note("it offers no checkpoint but the last state", todo)


@check(needs="finite")
def whole_run(trial: Trial) -> Finding:
    record = trial.whole_run().record
    assert record.last is not None
    used = f"{record.last.raw.clusters_used} of {record.clusters or 'its'} clusters used"
    return ok(f"train, predict, CRF, match, score and record; {used}")


METHOD_CHECKS: tuple[Check[Trial], ...] = (
    spec,
    imports,
    parameters,
    inputs,
    *training_checks.CHECKS,
    *label_checks.CHECKS,
    curves,
    checkpoints,
    *prediction_checks.CHECKS,
    training_checks.one_image,
    whole_run,
)

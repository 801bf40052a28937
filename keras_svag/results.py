"""The results of a finished run, as text."""


def results_table(results):
    """What a run has reached, what it measured and what follows from it.

    Args:
        results: the dict that `train.py` writes to `results.json`.

    Raises:
        ValueError: if they lack what a finished run has.
    """
    try:
        return _table(results)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"results.json lacks what a finished run has ({error}); remove it "
            "and start the same command again."
        ) from error


def _table(results):
    rows = [("test accuracy", f"{results['accuracy']:.2%}")]
    noise = results.get("gradient_noise")
    if noise:
        for name, key in (
            ("G = |∇L|²", "grad_sq_norm"),
            (f"N = Tr Σ at batch size {noise['batch_size']}", "noise_trace"),
            ("N/G", "noise_to_signal"),
        ):
            rows.append((name, _with_error(noise[key], noise[f"{key}_se"])))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if noise:
        lines.append("(noise over the last epoch, ± one standard error)")
    if "linear_scaling" in results:
        lines += ["", results["linear_scaling"]["text"]]
    return "\n".join(lines)


def _with_error(value, error):
    if value is None:
        return "not measured"
    return f"{value:.4g} ± {'unknown' if error is None else f'{error:.2g}'}"

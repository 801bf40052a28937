"""The check of the linear scaling rule, from the run's configuration."""

from keras_svag.callbacks.check import LinearScalingRuleCheck
from keras_svag.configured_data import probe_data


def make_check(config, dataset, training, log_dir):
    """The `LinearScalingRuleCheck` of a run, or None if nothing is measured.

    Args:
        config: a `ConfigDict`.
        dataset: the `Dataset` of the run.
        training: its training batches, one of which serves to see whether the
            loss is scale-invariant.
        log_dir: directory for TensorBoard.
    """
    if not (config.measure_noise and config.lsr.enabled):
        return None
    if config.optimizer == "ngd":
        # A full pass has no mini-batches to measure: a probe draws some.
        images = None
        probe = probe_data(dataset)
    else:
        images, _ = next(iter(training))
        probe = None
    return LinearScalingRuleCheck(
        config.batch_size,
        closeness=config.lsr.closeness,
        kappas=config.lsr.kappas,
        window=config.lsr.window,
        probe=probe,
        per_layer=config.lsr.per_layer and probe is not None,
        log_dir=log_dir,
        scale_invariant=images,
        verbose=0,
    )

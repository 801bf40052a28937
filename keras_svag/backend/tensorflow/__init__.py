"""What differs on TensorFlow."""

from keras_svag.backend.tensorflow.batches import (
    dynamic_num_rows,
    even_number_of_rows,
    first_rows,
    halves,
    num_rows,
    without_optionals,
)
from keras_svag.backend.tensorflow.beside import PairProgram
from keras_svag.backend.tensorflow.gradients import Gradients, one_sentence
from keras_svag.backend.tensorflow.normalization import (
    BatchNormalization,
    GroupNormalization,
)
from keras_svag.backend.tensorflow.pair_trainer import PairTrainer
from keras_svag.backend.tensorflow.state import (
    assign_replica_values,
    preserved_state,
    replica_values,
    replicas,
)
from keras_svag.backend.tensorflow.train_function import (
    Feed,
    FirstCall,
    fewest_rows,
)
from keras_svag.backend.tensorflow.workers import (
    MultiWorkerModel,
    count_loss,
    has_several_workers,
    is_chief,
    is_deterministic,
    is_one_process,
    writes_files,
)

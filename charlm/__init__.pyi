"""Declares the public names, which `__init__.py` loads on first use."""

from charlm.config import Config as Config
from charlm.data.batches import split_input_target as split_input_target
from charlm.data.corpus import load_lines as load_lines
from charlm.data.split import load_texts as load_texts
from charlm.data.tensors import create_batch_dataset as create_batch_dataset
from charlm.data.tensors import line_to_tensor as line_to_tensor
from charlm.data.tensors import text_from_ids as text_from_ids
from charlm.data.vocabulary import build_vocabulary as build_vocabulary
from charlm.errors import InputError as InputError
from charlm.evaluation.score import log_perplexity as log_perplexity
from charlm.loaded import LoadedModel as LoadedModel
from charlm.loaded import load as load
from charlm.model.language_model import GRULM as GRULM
from charlm.model.language_model import LanguageModel as LanguageModel
from charlm.model.layers import RecurrentLayer as RecurrentLayer
from charlm.sampling.generator import GenerativeModel as GenerativeModel
from charlm.sampling.gumbel import (
  temperature_random_sampling as temperature_random_sampling,
)
from charlm.training.optimizer import compile_model as compile_model
from charlm.training.start import train as train

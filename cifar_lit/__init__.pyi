from cifar_lit.api import Model as Model
from cifar_lit.api import fit as fit
from cifar_lit.api import load as load
from cifar_lit.api import versions as versions

__version__: str

"""PyTorch's own samples for the functions and modules that the drop-in has: OpInfo, ModuleInfo and those of test_nn.

What PyTorch computes of a sample in float64 is the reference, and OpInfo's tolerance for the dtype of a result, or a
tighter one, is how near to it the drop-in must come: PyTorch itself loses digits in the dtype. What PyTorch refuses
must be refused by the same type of error. There is no list of exceptions.
"""

import functools
import types
import warnings

import pytest
from test_torch_dropin import FUNCTIONS, LINEAR, MODULES, _one_thread, run  # noqa: F401

torch = pytest.importorskip("torch", reason="torch: not installed")
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
F = torch.nn.functional

import xent_any_backends.torch as ours  # noqa: E402  (it needs torch)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    common_methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    common_modules = pytest.importorskip("torch.testing._internal.common_modules")
    common_nn = pytest.importorskip("torch.testing._internal.common_nn")

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

LINEAR_FUNCTION = ["linear_cross_entropy"] if hasattr(F, "linear_cross_entropy") else []
OPERATORS = [
    op for op in common_methods.op_db if op.name.removeprefix("nn.functional.") in (*FUNCTIONS, *LINEAR_FUNCTION)
]
INFOS = [info for info in common_modules.module_db if info.module_cls.__name__ in (*MODULES, *LINEAR)]
TABLES = ("bcewithlogits", "bce_with_logi", "crossentropy", "cross_entropy", "nllloss", "softmax")

TIGHT = {torch.float64: 1e-13}
"""OpInfo's is 1e-7."""


def outcome(function, args, kwargs, dtype=None):
    """The result and the gradients, from the same direction; or the type of error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result, grads = run(function, args, kwargs, dtype)
    except Exception as error:  # noqa: BLE001  (its type is what is compared)
        return type(error)
    return (result, *grads)


def near(result, expected, exact, *, has_products):
    """Compare with what PyTorch computes in float64, `exact`, and with its own result in the dtype.

    Products of matrices have rounding errors of the size of their terms, and logits of several positions are rounded to
    half precision: there a result may be so much further away than PyTorch's own, whose terms are the same.
    """
    assert (result is None) == (exact is None)
    if result is None or exact.numel() == 0:
        return
    rtol, atol = torch.testing._comparison.default_tolerances(result.dtype)
    rtol = TIGHT.get(result.dtype, rtol)
    largest = exact.detach().abs().nan_to_num(0).amax().item()
    atol = min(atol, rtol * largest)
    if has_products:
        atol = rtol * largest + (expected.double() - exact).abs().amax().item()
    torch.testing.assert_close(result, exact.to(result.dtype), rtol=rtol, atol=atol, equal_nan=True)


def check_same(mine, theirs, reference, args, kwargs, *, has_products):
    """Compare two functions; `reference` is called in float64."""
    expected, found = outcome(theirs, args, kwargs), outcome(mine, args, kwargs)
    if isinstance(expected, type) or isinstance(found, type):
        assert found is expected
        return
    exact = outcome(reference, args, kwargs, torch.float64)
    assert [(a.dtype, a.shape) for a in found if a is not None] == [
        (a.dtype, a.shape) for a in expected if a is not None
    ]
    assert found[0].requires_grad == expected[0].requires_grad
    assert len(found) == len(exact)
    for result in zip(found, expected, exact, strict=True):
        near(*result, has_products=has_products)


def without_options(function, *args, options=None, **kwargs):
    """PyTorch's path in blocks has no float64 of its own: its options say in which dtype it adds up."""
    return function(*args, **kwargs)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: "-".join(filter(None, (op.name, op.variant_test_name))))
def test_operators(op, record_property):
    """Values and gradients in every dtype that PyTorch has the function in."""
    name = op.name.removeprefix("nn.functional.")
    mine, theirs, is_linear = getattr(ours, name), getattr(F, name), "linear" in name
    reference = functools.partial(without_options, theirs) if is_linear else theirs
    count = 0
    for dtype in sorted(op.supported_dtypes("cpu"), key=str):
        torch.manual_seed(0)
        for sample in op.sample_inputs("cpu", dtype, requires_grad=dtype.is_floating_point):
            args = (sample.input, *sample.args)
            check_same(mine, theirs, reference, args, sample.kwargs, has_products=is_linear)
            count += 1
    for error in op.error_inputs("cpu") if op.error_inputs_func else ():
        sample = error.sample_input
        with pytest.raises(error.error_type):
            mine(sample.input, *sample.args, **sample.kwargs)
        count += 1
    record_property("samples of PyTorch", count)
    assert count > 20


def called(module):
    """The module as a function of its inputs and its parameters."""
    names = [name for name, _ in module.named_parameters()]

    def function(x, target, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, target))

    return function


def constructed_and_called(module, sample):
    made = module(*sample.constructor_input.args, **sample.constructor_input.kwargs)
    return made(*sample.forward_input.args, **sample.forward_input.kwargs)


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.module_cls.__name__)
def test_modules(info, record_property):
    """Values, and gradients with respect to the inputs and the parameters, in every dtype that ModuleInfo names."""
    theirs, mine = info.module_cls, getattr(ours, info.module_cls.__name__)
    more = {"options": None} if "Linear" in theirs.__name__ else {}
    count = 0
    for dtype in info.dtypes:
        torch.manual_seed(0)
        common = {"device": "cpu", "dtype": dtype, "requires_grad": True, "training": True}
        for sample in info.module_inputs_func(info, **common):
            args, kwargs, inputs = sample.constructor_input.args, sample.constructor_input.kwargs, sample.forward_input
            modules = [mine(*args, **kwargs), theirs(*args, **kwargs), theirs(*args, **(kwargs | more))]
            for module in modules:
                module.load_state_dict(modules[0].state_dict())
            modules[2].double()
            functions = map(called, modules)
            check_same(*functions, (*inputs.args, *modules[0].parameters()), inputs.kwargs, has_products=bool(more))
            count += 1
        for error in info.module_error_inputs_func(info, **common) if info.module_error_inputs_func else ():
            with pytest.raises(error.error_type):
                constructed_and_called(mine, error.module_error_input)
            count += 1
    record_property("samples of PyTorch", count)
    assert count > 10


class TestCase(common_nn.NNTestCase):
    """What the tests of test_nn.py call."""

    __test__ = False

    def runTest(self):  # noqa: N802  (unittest's name)
        """Without it there is no object of this class."""

    def _forward(self, module, inputs):
        return module(*inputs) if isinstance(inputs, tuple) else module(inputs)

    def _forward_criterion(self, criterion, inputs, target, extra_args=()):
        return criterion(inputs, target, *extra_args)

    def _backward(self, module, inputs, output, grad_output, create_graph=False):
        output.backward(grad_output, retain_graph=True, create_graph=create_graph)
        return inputs.grad.data

    def _get_parameters(self, module):
        return list(module.parameters()), [p.grad for p in module.parameters()]

    def _zero_grad_parameters(self, module):
        module.zero_grad()


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's tests call what PyTorch warns of
def test_nn(monkeypatch, record_property):
    """The tests that test_nn.py makes of its tables: values of reference functions, gradcheck, gradgradcheck, ..."""
    count, used = 0, []

    def counted(name):
        @functools.wraps(getattr(ours, name))
        def function(*args, **kwargs):
            used.append(name)
            return getattr(ours, name)(*args, **kwargs)

        return function

    functional = types.SimpleNamespace(**vars(F) | {name: counted(name) for name in FUNCTIONS})
    modules = {name: getattr(ours, name) for name in MODULES}
    monkeypatch.setattr(common_nn, "F", functional)
    monkeypatch.setattr(common_nn, "nn", types.SimpleNamespace(**vars(torch.nn) | modules | {"functional": functional}))
    case = TestCase()
    for kind, tables in (
        (common_nn.CriterionTest, common_nn.criterion_tests),
        (common_nn.NewModuleTest, common_nn.get_new_module_tests()),
    ):
        for table in tables:
            name = table.get("fullname") or table["module_name"] + table.get("desc", "")
            if name.lower().startswith(TABLES):
                kind(**table)(case)
                count += 1
    record_property("samples of PyTorch", count)
    assert count > 20
    assert set(used) >= {"binary_cross_entropy_with_logits", "nll_loss"}

"""The GRPO kernels of libgrpo_cuda.so on PyTorch tensors, through their data pointers: no copy, no Node.

    kernels = Kernels("build-cuda/libgrpo_cuda.so")
    log_probs, entropy = kernels.token_log_probs(logits, targets, temperature=1.0)
    loss = kernels.policy_loss(log_probs, advantages, sequence_offsets, old_log_probs=old)
    loss.backward()

Work is queued on the stream that was PyTorch's current one of the device when `Kernels` was made; where another is current
later, each waits for the other. Shapes and meanings are those of kernels/include/grpo.h and docs/numerics.md; argument
structs are made from that header.
"""

import contextlib
import ctypes
import re
from pathlib import Path

import torch

HEADER = Path(__file__).parents[2] / "kernels/include/grpo.h"
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int32: 3}
STATISTICS = 21  # numbers in the `statistics` tensor of policy_loss
LOSS_TYPES = ["grpo", "bnpo", "dapo", "dr_grpo", "luspo", "cispo", "sapo", "vespo"]


class GrpoTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 4),
        ("row_stride", ctypes.c_int64),
    ]


def tensor_argument(tensor):
    """A view of a tensor's memory; None is an absent tensor."""
    if tensor is None:
        return GrpoTensor()
    if isinstance(tensor, GrpoTensor):
        return tensor
    if tensor.dtype not in DTYPES or tensor.dim() > 4 or (tensor.dim() > 0 and tensor.stride(-1) != 1):
        raise ValueError(f"expected float32, bfloat16, float16 or int32 with adjacent columns, got {tensor.dtype} "
                         f"with strides {tensor.stride()}")
    if tensor.dim() > 2 and not tensor.is_contiguous():
        raise ValueError(f"expected contiguous memory in {tensor.dim()} dimensions")
    shape = (ctypes.c_int64 * 4)(*tensor.shape)
    columns = tensor.shape[-1] if tensor.dim() > 0 else 1
    stride = tensor.stride(-2) if tensor.dim() > 1 else columns
    return GrpoTensor(tensor.data_ptr(), DTYPES[tensor.dtype], tensor.dim(), shape, stride)


def read_operations():
    """The operations of the header, in order: name, tensors, scalars."""
    text = HEADER.read_text().replace("\\\n", " ")
    fields = {name: body for name, body in re.findall(r"#define GRPO_FIELDS_(\w+)\(T, S\)(.*)", text)}
    names = re.findall(r"X\((\w+)\)", re.search(r"#define GRPO_OPERATIONS\(X\)(.*)", text).group(1))
    return [(name, re.findall(r"\bT\((\w+)\)", fields[name]), re.findall(r"\bS\((\w+)\)", fields[name]))
            for name in names]


class Kernels:
    """One device of the library: a GPU, or the processor where PyTorch sees none."""

    def __init__(self, library, device=0):
        operations = read_operations()
        pointer = ctypes.c_void_p
        functions = ["device_count", "create", "destroy", "describe", "last_error", "allocate", "release", "upload",
                     "download", "synchronize", "wait_for_stream", "let_stream_wait", "memory",
                     "begin_capture", "end_capture", "launch_graph", "release_graph"] + [name for name, _, _ in operations]

        class Backend(ctypes.Structure):
            _fields_ = [("abi_version", ctypes.c_uint32), ("struct_size", ctypes.c_uint32),
                        ("kind", ctypes.c_char_p)] + [(name, pointer) for name in functions]

        entry = ctypes.CDLL(str(library)).grpo_cuda_backend
        entry.restype = ctypes.POINTER(Backend)
        self._table = entry().contents
        if self._table.abi_version != 4 or self._table.struct_size != ctypes.sizeof(Backend):
            raise RuntimeError(f"{library} has another version of the table than {HEADER}")
        self._device = device if torch.cuda.is_available() else None
        self._stream = self._current_stream()
        # Targets are PyTorch's: checking them would wait for the device. One out of range gives NaN.
        options = f"stream={self._stream};check_indices=0"
        message = ctypes.create_string_buffer(512)
        self._context = pointer()
        create = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(pointer), ctypes.c_char_p,
                                  ctypes.c_size_t)(self._table.create)
        with self._chosen():
            if create(device, options.encode(), ctypes.byref(self._context), message, len(message)):
                raise RuntimeError(message.value.decode())
        self._arguments = {}
        for name, tensors, scalars in operations:
            fields = [(tensor, GrpoTensor) for tensor in tensors] + [(scalar, ctypes.c_double) for scalar in scalars]
            self._arguments[name] = type(name, (ctypes.Structure,), {"_fields_": fields, "tensors": tensors})

    def close(self):
        with self._chosen():
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._table.destroy)(self._context)

    def _current_stream(self):
        """0 is the default stream."""
        return 0 if self._device is None else torch.cuda.current_stream(self._device).cuda_stream

    def _chosen(self):
        """The library makes its device the thread's own: PyTorch's choice comes back afterwards."""
        return contextlib.nullcontext() if self._device is None else torch.cuda.device(self._device)

    def integers(self, values):
        """int32 numbers in the library's memory until close(): unlike a torch tensor's, it never reads them back, which
        waits, to check them."""
        host = (ctypes.c_int32 * len(values))(*values)
        data, size, pointer = ctypes.c_void_p(), ctypes.c_size_t, ctypes.c_void_p
        allocate = ctypes.CFUNCTYPE(ctypes.c_int, pointer, size, ctypes.POINTER(pointer))(self._table.allocate)
        upload = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, size)(self._table.upload)
        with self._chosen():
            self._require("integers", allocate(self._context, ctypes.sizeof(host), ctypes.byref(data)))
            self._require("integers", upload(self._context, data, ctypes.addressof(host), ctypes.sizeof(host)))
        return GrpoTensor(data.value, DTYPES[torch.int32], 1, (ctypes.c_int64 * 4)(len(host)), len(host))

    def run(self, name, **values):
        """Queues an operation. Tensors that are left out are absent, scalars 0."""
        arguments = self._arguments[name]()
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.device.index != self._device:
                raise ValueError(f"{name}: {key}: expected a tensor on {self._place()}, got one on {value.device}")
            setattr(arguments, key, tensor_argument(value) if key in arguments.tensors else float(value))
        call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        current = self._current_stream()
        with self._chosen():
            if current != self._stream:
                self._require(name, call(self._table.wait_for_stream)(self._context, current))
            self._require(name, call(getattr(self._table, name))(self._context, ctypes.addressof(arguments)))
            if current != self._stream:
                self._require(name, call(self._table.let_stream_wait)(self._context, current))

    def _place(self):
        return "the processor" if self._device is None else f"cuda:{self._device}"

    def _require(self, name, status):
        if status:
            last_error = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(self._table.last_error)
            raise RuntimeError(f"{name}: {last_error(self._context).decode()}")

    def token_log_probs(self, logits, targets, temperature=1.0, softcap=0.0):
        """logits [N,V] and targets [N] to log-probs and entropy, each [N] in float32; both have gradients."""
        return TokenLogProbs.apply(self, logits, targets.int(), temperature, softcap)

    def policy_loss(self, log_probs, advantages, sequence_offsets, old_log_probs=None, mask=None, loss_type="grpo",
                    epsilon=0.2, epsilon_high=0.2):
        """The loss of log_probs [N] of packed sequences, with advantages [B] and sequence_offsets [B+1] int32."""
        return PolicyLoss.apply(self, log_probs, advantages, sequence_offsets, old_log_probs, mask, loss_type, epsilon,
                                epsilon_high)


class TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(context, kernels, logits, targets, temperature, softcap):
        log_probs, entropy, log_sum_exp = (logits.new_empty(logits.shape[0], dtype=torch.float32) for _ in range(3))
        context.settings = {"temperature": temperature, "softcap": softcap}
        kernels.run("token_log_probs", logits=logits, targets=targets, log_probs=log_probs, entropy=entropy,
                    log_sum_exp=log_sum_exp, **context.settings)
        context.kernels = kernels
        context.save_for_backward(logits, targets, log_sum_exp, entropy)
        return log_probs, entropy

    @staticmethod
    def backward(context, grad_log_probs, grad_entropy):
        logits, targets, log_sum_exp, entropy = context.saved_tensors
        grad_logits = torch.empty_like(logits)
        context.kernels.run("token_log_probs_backward", logits=logits, targets=targets, log_sum_exp=log_sum_exp,
                            entropy=entropy, grad_log_probs=grad_log_probs.contiguous(),
                            grad_entropy=grad_entropy.contiguous(), grad_logits=grad_logits, **context.settings)
        return None, grad_logits, None, None, None


class PolicyLoss(torch.autograd.Function):
    @staticmethod
    def forward(context, kernels, log_probs, advantages, sequence_offsets, old_log_probs, mask, loss_type, epsilon,
                epsilon_high):
        if loss_type not in LOSS_TYPES or loss_type in ("dr_grpo", "sapo", "vespo"):
            raise ValueError(f"loss_type: expected one that epsilon alone describes, got {loss_type}")
        loss, statistics = log_probs.new_empty(1), log_probs.new_empty(STATISTICS)
        gradient = torch.empty_like(log_probs)
        infinity = float("inf")
        kernels.run("policy_loss", log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages, mask=mask,
                    sequence_offsets=sequence_offsets, loss=loss, grad_log_probs=gradient, statistics=statistics,
                    loss_type=LOSS_TYPES.index(loss_type), epsilon=epsilon, epsilon_high=epsilon_high, delta=infinity,
                    kl_estimator=2, off_policy_mask_threshold=infinity, rollout_cap=infinity)
        context.save_for_backward(gradient)
        return loss[0]

    @staticmethod
    def backward(context, grad_loss):
        (gradient,) = context.saved_tensors
        return (None, gradient * grad_loss) + (None,) * 7

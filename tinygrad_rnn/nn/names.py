"""What people's hands know from PyTorch and is called otherwise here, for errors to say."""

OF_MODULES = {
    "register_buffer": "assign it, module.name = nn.Buffer(value)",
    "register_parameter": "assign it, module.name = nn.Parameter(value)",
    "add_module": "assign it, setattr(module, name, child)",
    "register_module": "assign it, setattr(module, name, child)",
    "apply": "for each in module.modules(): ...",
    "children": "named_children() gives (name, child)",
    "get_submodule": "dict(module.named_modules())[name]",
    "get_parameter": "dict(module.named_parameters())[name]",
    "get_buffer": "dict(module.named_buffers())[name]",
    "cuda": "module.to('cupy') moves it to the GPU",
    "cpu": "module.to('numpy') moves it to the host",
    "double": "set_default_dtype('float64') before it is made",
    "float": "set_default_dtype('float32') before it is made",
    "half": "set_default_dtype('float16') before it is made",
    "type": "set_default_dtype(dtype) before it is made",
    "flatten_parameters": "it is not needed",
    "reset_parameters": "make the module anew",
    "register_forward_hook": "define a forward that calls the module, or see nn.summary",
    "register_forward_pre_hook": "define a forward that calls the module",
    "register_full_backward_hook": "tensor.register_hook sees its cotangent",
    "compile": "unroll plans a cell by itself",
}

_LIST = "a plain list, self.layers = [...]"
_DICT = "a plain dict, self.layers = {...}"
_NORM = "LayerNorm, along the last axis: to which tinygrad_rnn.moveaxis moves channels"


def _function(name: str) -> str:
    return f"the function tinygrad_rnn.{name}, which may be a stage of Sequential, too"


OF_NN = {
    "ModuleList": _LIST,
    "ParameterList": _LIST,
    "ModuleDict": _DICT,
    "ParameterDict": _DICT,
    "Identity": "a function, lambda x: x",
    "Flatten": "tinygrad_rnn.reshape, in Sequential lambda x: tg.reshape(x, (len(x), -1))",
    "AdaptiveAvgPool1d": "tinygrad_rnn.mean over the last axis, for one place",
    "AdaptiveAvgPool2d": "tinygrad_rnn.mean over the axes (-2, -1), for one place",
    "AdaptiveMaxPool1d": "tinygrad_rnn.max over the last axis, for one place",
    "AdaptiveMaxPool2d": "tinygrad_rnn.max over the axes (-2, -1), for one place",
    "BatchNorm1d": _NORM,
    "BatchNorm2d": _NORM,
    "GroupNorm": _NORM,
    "ConvTranspose1d": "tinygrad_rnn.repeat along the axis -1, and a Conv1d",
    "ConvTranspose2d": "tinygrad_rnn.repeat along the axes -2 and -1, and a Conv2d",
    "Upsample": "tinygrad_rnn.repeat along the axes -2 and -1, which takes the nearest",
    "Unfold": "tinygrad_rnn.windows",
    "Fold": "tinygrad_rnn.overlap_add",
    "Softmax2d": "tinygrad_rnn.softmax along the axis -3",
    "Dropout2d": "tinygrad_rnn.dropout of ones (..., C, 1, 1), times x",
    "utils": "tinygrad_rnn.optim.clip_grad_norm_ and clip_grad_value_, tinygrad_rnn.pad_sequences",
    "functional": "tinygrad_rnn.functional",
    **{
        theirs: _function(ours)
        for theirs, ours in {
            "Tanh": "tanh",
            "Sigmoid": "sigmoid",
            "ReLU": "relu",
            "LeakyReLU": "leaky_relu",
            "ELU": "elu",
            "GELU": "gelu",
            "SiLU": "silu",
            "Softplus": "softplus",
            "Softmax": "softmax",
            "LogSoftmax": "log_softmax",
            "LogSigmoid": "logsigmoid",
            "Hardsigmoid": "hardsigmoid",
            "GLU": "glu",
        }.items()
    },
    **{
        theirs: f"the function tinygrad_rnn.{ours}"
        for theirs, ours in {
            "CrossEntropyLoss": "cross_entropy",
            "NLLLoss": "nll_loss",
            "MSELoss": "mse_loss",
            "L1Loss": "l1_loss",
            "SmoothL1Loss": "smooth_l1_loss",
            "HuberLoss": "huber_loss",
            "BCELoss": "binary_cross_entropy_with_logits",
            "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
            "KLDivLoss": "kl_div",
            "CTCLoss": "ctc_loss",
        }.items()
    },
}

"""The operators of TensorFlow that are run from a file: what computes with numbers, and nothing else.

A list of what may be, not of what may not: TensorFlow has some 1,500 operators, a part of which read and write files,
open sockets, call Python or start a compiler, and each release has new ones.
"""

from __future__ import annotations

__all__ = ["HARMLESS", "REASONS"]

_VALUES = """
    BroadcastArgs BroadcastTo Cast ClipByValue Concat ConcatV2 Const DynamicStitch EnsureShape ExpandDims Fill Gather
    GatherNd GatherV2 Identity IdentityN InvertPermutation LinSpace MatrixBandPart MirrorPad NoOp OneHot OnesLike Pack
    Pad PadV2 ParallelDynamicStitch Placeholder PlaceholderWithDefault Range Rank Reshape ReverseSequence ReverseV2 Roll
    ScatterNd Select SelectV2 Shape ShapeN Size Slice Snapshot Split SplitV Squeeze StopGradient StridedSlice
    TensorScatterUpdate Tile Transpose Unpack Where ZerosLike
"""
_ARITHMETIC = """
    Abs Add AddN AddV2 ArgMax ArgMin Atan Atan2 Ceil Cos Cumprod Cumsum Div DivNoNan Equal Erf Erfc Exp Expm1 Floor
    FloorDiv FloorMod Greater GreaterEqual IsFinite IsInf IsNan Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr
    Maximum Minimum Mod Mul MulNoNan Neg NotEqual Pow RealDiv Reciprocal Rint Round Rsqrt Sign Sin Sqrt Square
    SquaredDifference Sub Tan TruncateDiv TruncateMod Xdivy
"""
_OVER_AXES = """
    All Any BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum EuclideanNorm MatMul Max Mean Min Prod Sum TopKV2
"""
_LAYERS = """
    AvgPool BatchToSpaceND BiasAdd Conv2D Conv2DBackpropInput DepthwiseConv2dNative Elu FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 LeakyRelu LogSoftmax MaxPool Relu Relu6 ResizeNearestNeighbor Selu Sigmoid Softmax Softplus
    Softsign SpaceToBatchND Tanh
"""
_CONTROL = """
    If PartitionedCall ReadVariableOp StatefulPartitionedCall StatelessIf StatelessWhile TensorListElementShape
    TensorListFromTensor TensorListGetItem TensorListLength TensorListReserve TensorListResize TensorListSetItem
    TensorListStack While
"""

HARMLESS = frozenset(" ".join([_VALUES, _ARITHMETIC, _OVER_AXES, _LAYERS, _CONTROL]).split())
"""Without an effect but their outputs, which depend on their inputs and on variables alone."""

REASONS = {
    "AssignVariableOp": "it changes a variable, as a layer with stateful=True does: export the model without that",
    "CudnnRNN": "it was exported on a GPU, for cuDNN: export it with CUDA_VISIBLE_DEVICES= in the environment",
}
"""Why an operator whose name begins so is not among them, and what to do."""

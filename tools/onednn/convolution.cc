// Convolutions in bfloat16 by oneDNN, as custom calls of XLA's CPU backend.
//
// Images are dense [n, h, w, c] in bfloat16 and kernels [kh, kw, c, o] in
// float32; results are float32, and so are the sums. oneDNN chooses how a
// kernel lies in memory. The primitives of a shape are made once and kept.
//
// `geometry` holds the strides (2), the padding before and after the rows, and
// that before and after the columns.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using Tag = memory::format_tag;
using Type = memory::data_type;
using Geometry = ffi::Span<const int64_t>;
using Images = ffi::Buffer<ffi::BF16, 4>;
using Floats = ffi::Buffer<ffi::F32, 4>;

namespace {

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

struct Shapes {
  memory::dims x, kernel, y, strides, before, after;

  Shapes(ffi::Span<const int64_t> in, ffi::Span<const int64_t> w,
         ffi::Span<const int64_t> out, Geometry g)
      : x{in[0], in[3], in[1], in[2]},
        kernel{w[3], w[2], w[0], w[1]},
        y{out[0], out[3], out[1], out[2]},
        strides{g[0], g[1]},
        before{g[2], g[4]},
        after{g[3], g[5]} {}

  auto Key() const { return std::tie(x, kernel, y, strides, before, after); }
  bool operator<(const Shapes& other) const { return Key() < other.Key(); }

  memory::desc Source(Type type) const { return {x, type, Tag::nhwc}; }
  memory::desc Result(Type type) const { return {y, type, Tag::nhwc}; }
  memory::desc Plain() const { return {kernel, Type::f32, Tag::hwio}; }
  memory::desc Any(Type type) const { return {kernel, type, Tag::any}; }
};

// A primitive of one shape, the memory that it works in, and, if oneDNN wants
// the kernel in a layout of its own, the copy and what makes it.
template <typename Primitive>
struct Operation {
  typename Primitive::primitive_desc desc;
  Primitive primitive;
  memory scratch, kernel;
  dnnl::reorder reorder;

  Operation(typename Primitive::primitive_desc d, memory::desc layout,
            memory::desc from, memory::desc to)
      : desc(d),
        primitive(d),
        scratch(d.scratchpad_desc(), Engine()),
        kernel(layout, Engine()),
        reorder(dnnl::reorder::primitive_desc(Engine(), from, Engine(), to)) {}
};

using Forward = Operation<dnnl::convolution_forward>;
using ToImages = Operation<dnnl::convolution_backward_data>;
using ToKernel = Operation<dnnl::convolution_backward_weights>;

dnnl::primitive_attr Attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

constexpr auto kDirect = dnnl::algorithm::convolution_direct;

dnnl::convolution_forward::primitive_desc ForwardDesc(const Shapes& s,
                                                      Type result) {
  return {Engine(),           dnnl::prop_kind::forward_training,
          kDirect,            s.Source(Type::bf16),
          s.Any(Type::bf16),  s.Result(result),
          s.strides,          s.before,
          s.after,            Attributes()};
}

std::unique_ptr<Forward> Make(const Shapes& s, Forward*) {
  auto desc = ForwardDesc(s, Type::f32);
  return std::make_unique<Forward>(desc, desc.weights_desc(), s.Plain(),
                                   desc.weights_desc());
}

std::unique_ptr<ToImages> Make(const Shapes& s, ToImages*) {
  dnnl::convolution_backward_data::primitive_desc desc(
      Engine(), kDirect, s.Source(Type::f32), s.Any(Type::bf16),
      s.Result(Type::bf16), s.strides, s.before, s.after,
      ForwardDesc(s, Type::bf16), Attributes());
  return std::make_unique<ToImages>(desc, desc.weights_desc(), s.Plain(),
                                    desc.weights_desc());
}

std::unique_ptr<ToKernel> Make(const Shapes& s, ToKernel*) {
  dnnl::convolution_backward_weights::primitive_desc desc(
      Engine(), kDirect, s.Source(Type::bf16), s.Any(Type::f32),
      s.Result(Type::bf16), s.strides, s.before, s.after,
      ForwardDesc(s, Type::bf16), Attributes());
  return std::make_unique<ToKernel>(desc, desc.diff_weights_desc(),
                                    desc.diff_weights_desc(), s.Plain());
}

// Runs f with the operation of a shape. An operation's memory is its own, so
// only one thread may run it at a time.
template <typename Op, typename F>
ffi::Error With(const Shapes& shapes, F f) {
  static std::mutex mutex;
  static auto* kept = new std::map<Shapes, std::unique_ptr<Op>>;
  try {
    std::lock_guard<std::mutex> lock(mutex);
    auto& op = (*kept)[shapes];
    if (!op) op = Make(shapes, static_cast<Op*>(nullptr));
    dnnl::stream stream(Engine());
    f(*op, stream);
    stream.wait();
    return ffi::Error::Success();
  } catch (const dnnl::error& error) {
    return ffi::Error::Internal(error.what());
  }
}

template <typename Buffer>
memory View(const memory::desc& desc, Buffer& buffer) {
  return {desc, Engine(),
          const_cast<void*>(static_cast<const void*>(buffer.untyped_data()))};
}

ffi::Error Convolve(Geometry geometry, Images x, Floats kernel,
                    ffi::Result<Floats> y) {
  Shapes s(x.dimensions(), kernel.dimensions(), y->dimensions(), geometry);
  return With<Forward>(s, [&](Forward& op, dnnl::stream& stream) {
    auto plain = View(s.Plain(), kernel);
    op.reorder.execute(stream, plain, op.kernel);
    op.primitive.execute(stream, {{DNNL_ARG_SRC, View(s.Source(Type::bf16), x)},
                                  {DNNL_ARG_WEIGHTS, op.kernel},
                                  {DNNL_ARG_DST, View(s.Result(Type::f32), *y)},
                                  {DNNL_ARG_SCRATCHPAD, op.scratch}});
  });
}

ffi::Error ImageGradient(Geometry geometry, Images grad, Floats kernel,
                         ffi::Result<Floats> x) {
  Shapes s(x->dimensions(), kernel.dimensions(), grad.dimensions(), geometry);
  return With<ToImages>(s, [&](ToImages& op, dnnl::stream& stream) {
    auto plain = View(s.Plain(), kernel);
    op.reorder.execute(stream, plain, op.kernel);
    op.primitive.execute(
        stream, {{DNNL_ARG_DIFF_DST, View(s.Result(Type::bf16), grad)},
                 {DNNL_ARG_WEIGHTS, op.kernel},
                 {DNNL_ARG_DIFF_SRC, View(s.Source(Type::f32), *x)},
                 {DNNL_ARG_SCRATCHPAD, op.scratch}});
  });
}

ffi::Error KernelGradient(Geometry geometry, Images x, Images grad,
                          ffi::Result<Floats> kernel) {
  Shapes s(x.dimensions(), kernel->dimensions(), grad.dimensions(), geometry);
  return With<ToKernel>(s, [&](ToKernel& op, dnnl::stream& stream) {
    op.primitive.execute(
        stream, {{DNNL_ARG_SRC, View(s.Source(Type::bf16), x)},
                 {DNNL_ARG_DIFF_DST, View(s.Result(Type::bf16), grad)},
                 {DNNL_ARG_DIFF_WEIGHTS, op.kernel},
                 {DNNL_ARG_SCRATCHPAD, op.scratch}});
    auto plain = View(s.Plain(), *kernel);
    op.reorder.execute(stream, op.kernel, plain);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve, Convolve,
                              ffi::Ffi::Bind()
                                  .Attr<Geometry>("geometry")
                                  .Arg<Images>()
                                  .Arg<Floats>()
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(image_gradient, ImageGradient,
                              ffi::Ffi::Bind()
                                  .Attr<Geometry>("geometry")
                                  .Arg<Images>()
                                  .Arg<Floats>()
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(kernel_gradient, KernelGradient,
                              ffi::Ffi::Bind()
                                  .Attr<Geometry>("geometry")
                                  .Arg<Images>()
                                  .Arg<Images>()
                                  .Ret<Floats>());

#ifndef GRAFT_PRIMITIVE_H
#define GRAFT_PRIMITIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/array.h"
#include "mlx/c/stream.h"
#include "mlx/c/string.h"
#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_primitive Primitives defined outside of MLX
 * An operation of MLX's graph whose kernel and derivative are C callbacks. It runs on the CPU, on
 * the stream it is applied on.
 */
/**@{*/

/** An input of a running kernel. Valid during the call only. */
typedef struct graft_primitive_input_ {
  /**
   * The first element, not aligned to its size if the array is a view of bytes that begins anywhere;
   * may be null if the array has no elements.
   */
  const void* data;
  const int* shape;
  /** In elements, not bytes; 0 for a broadcast dimension, negative for a reversed one. */
  const int64_t* strides;
  size_t ndim;
  size_t size;
  mlx_dtype dtype;
  /** Whether the elements lie one after the other, the last dimension fastest. */
  bool row_contiguous;
} graft_primitive_input;

/**
 * An output of a running kernel, row-contiguous. It is uninitialised, or lies in the memory of the
 * input that it is an update of. Valid during the call only.
 */
typedef struct graft_primitive_output_ {
  void* data;
  const int* shape;
  size_t ndim;
  size_t size;
  mlx_dtype dtype;
} graft_primitive_output;

/** The list that graft_primitive_vtable.output_specs fills. */
typedef struct graft_primitive_specs_ {
  void* ctx;
} graft_primitive_specs;

/** Append the shape and dtype of the next output. */
int graft_primitive_specs_append(
    graft_primitive_specs specs,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype);

/**
 * What a primitive does. Every callback but `eval` and `updates` is required. Those that return int
 * return 0, or non-zero for a failure, but for `updates`. No callback may throw or unwind. A payload
 * is shared between threads.
 */
typedef struct graft_primitive_vtable_ {
  /**
   * Append shape and dtype of each output. Called when applied and by shapeless compilation, then
   * with other lengths, for which the outputs differ in lengths alone.
   */
  int (*output_specs)(
      graft_primitive_specs specs,
      const mlx_vector_array inputs,
      const void* payload);
  /**
   * Fill all outputs. Runs on the thread of the stream. Upon failure, set `error` to a new string,
   * which is the text of the exception that evaluation throws; the outputs are then overwritten:
   * with zeros if the status is 2, otherwise with NaN (true for bool, all bits set for other
   * integers). Without this callback, the one output is the first input, on any device.
   */
  int (*eval)(
      mlx_string* error,
      const graft_primitive_input* inputs,
      size_t num_inputs,
      const graft_primitive_output* outputs,
      size_t num_outputs,
      const void* payload);
  /**
   * The number of the input, of its shape and dtype, that output number `output` is written over if
   * nothing else needs it: then both have the same data. -1 if there is none.
   */
  int (*updates)(size_t output, const void* payload);
  /** The vector-Jacobian products with respect to the inputs in argnums. */
  int (*vjp)(
      mlx_vector_array* res,
      const mlx_vector_array primals,
      const mlx_vector_array cotangents,
      const int* argnums,
      size_t num_argnums,
      const mlx_vector_array outputs,
      const void* payload);
  /** The Jacobian-vector product; `tangents` belong to the inputs in argnums. */
  int (*jvp)(
      mlx_vector_array* res,
      const mlx_vector_array primals,
      const mlx_vector_array tangents,
      const int* argnums,
      size_t num_argnums,
      const void* payload);
  /** The outputs and their mapped axes; an axis of -1 is an input that is not mapped. */
  int (*vmap)(
      mlx_vector_array* res,
      mlx_vector_int* res_axes,
      const mlx_vector_array inputs,
      const int* axes,
      size_t num_axes,
      const void* payload);
  /** Whether both payloads are of one type and equal: equal primitives on equal inputs merge. */
  bool (*is_equivalent)(const void* payload, const void* other);
  /** Frees a payload. May run on any thread. */
  void (*dtor)(void* payload);
} graft_primitive_vtable;

/**
 * Add a primitive to the graph. Takes the payload, upon failure too. `name` is copied; `vtable`
 * must outlive the process. Two primitives are compared only if they have the same vtable.
 */
int graft_primitive_apply(
    mlx_vector_array* res,
    const char* name,
    const graft_primitive_vtable* vtable,
    void* payload,
    const mlx_vector_array inputs,
    const mlx_stream s);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif

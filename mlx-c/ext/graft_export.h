#ifndef GRAFT_EXPORT_H
#define GRAFT_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/array.h"
#include "mlx/c/closure.h"
#include "mlx/c/export.h"
#include "mlx/c/map.h"
#include "mlx/c/string.h"
#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_export What mlx-c lacks of exported functions
 * Metadata, exporters of functions with keyword arguments, and exporting to a callback.
 */
/**@{*/

/** A new exporter of a function with keyword arguments, which saves metadata; null if it fails. */
mlx_function_exporter graft_function_exporter_new(
    const char* file,
    const mlx_closure_kwargs fun,
    bool shapeless,
    const char* metadata);

/** The metadata that was saved with a function, empty if there was none. */
int graft_imported_function_metadata(mlx_string* res, const mlx_imported_function xfunc);

/** An array of the graph, by its name in it. */
typedef struct graft_export_array_ {
  const char* name;
  const int* shape;
  size_t ndim;
  mlx_dtype dtype;
} graft_export_array;

/** A keyword of the function, and the name of its array in the graph. */
typedef struct graft_export_keyword_ {
  const char* keyword;
  const char* name;
} graft_export_keyword;

/** An array that the graph holds, by its name in it. */
typedef struct graft_export_constant_ {
  const char* name;
  mlx_array value;
} graft_export_constant;

/** The type of an argument of a primitive. */
typedef enum graft_export_argument_kind_ {
  GRAFT_EXPORT_NONE,
  GRAFT_EXPORT_BOOL,
  GRAFT_EXPORT_INT,
  GRAFT_EXPORT_FLOAT,
  GRAFT_EXPORT_DTYPE,
  GRAFT_EXPORT_STRING,
  /** The lengths or the positions of a shape. */
  GRAFT_EXPORT_SHAPE,
  GRAFT_EXPORT_LIST,
  GRAFT_EXPORT_TUPLE,
} graft_export_argument_kind;

/** An argument of a primitive. What belongs to another kind is zero. */
typedef struct graft_export_argument_ {
  graft_export_argument_kind kind;
  /** The value of a bool or an integer, whose bits are those of a size_t if it was one. */
  int64_t integer;
  double real;
  mlx_dtype dtype;
  const char* text;
  /** The elements of a shape, a list or a tuple. */
  const struct graft_export_argument_* items;
  size_t num_items;
} graft_export_argument;

/** What a part of the graph is. They come in this order; primitives in that of computation. */
typedef enum graft_export_event_kind_ {
  GRAFT_EXPORT_INPUTS,
  GRAFT_EXPORT_KEYWORD_INPUTS,
  GRAFT_EXPORT_OUTPUTS,
  GRAFT_EXPORT_CONSTANTS,
  GRAFT_EXPORT_PRIMITIVE,
} graft_export_event_kind;

/** A part of the graph. What belongs to another kind is empty. Valid during the call only. */
typedef struct graft_export_event_ {
  graft_export_event_kind kind;
  /** Of the function, or of the primitive. */
  const graft_export_array* inputs;
  size_t num_inputs;
  const graft_export_array* outputs;
  size_t num_outputs;
  const graft_export_keyword* keywords;
  size_t num_keywords;
  const graft_export_constant* constants;
  size_t num_constants;
  /** The name of the primitive. */
  const char* name;
  const graft_export_argument* arguments;
  size_t num_arguments;
} graft_export_event;

/**
 * Trace a function and give its graph to a callback, part by part, on this thread before this
 * returns. The callback returns 0, or non-zero to end with a failure; it may not throw.
 */
int graft_export_function_callback(
    int (*callback)(const graft_export_event* event, void* payload),
    void* payload,
    const mlx_closure_kwargs fun,
    const mlx_vector_array args,
    const mlx_map_string_to_array kwargs,
    bool shapeless);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif

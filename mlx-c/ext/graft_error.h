#ifndef GRAFT_ERROR_H
#define GRAFT_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_error Typed errors
 * mlx-c reports a failure by a non-zero return value and the text of the exception. The handler
 * installed here also keeps the type of the exception. It stores both in the calling thread and
 * returns: a failed call never ends the process.
 */
/**@{*/

/** The type of the C++ exception that made a call fail. */
typedef enum graft_error_kind_ {
  GRAFT_ERROR_NONE,
  GRAFT_ERROR_INVALID_ARGUMENT,
  GRAFT_ERROR_OUT_OF_RANGE,
  GRAFT_ERROR_OVERFLOW,
  GRAFT_ERROR_BAD_ALLOC,
  GRAFT_ERROR_RUNTIME,
} graft_error_kind;

/**
 * Install the error handler of this library. Done when the shared library is loaded; a program
 * linked to the static library calls it once before its first call.
 */
void graft_error_install(void);

/** The kind of the last failure on this thread, GRAFT_ERROR_NONE if there was none. */
graft_error_kind graft_error_last_kind(void);

/** The text of the last failure on this thread, valid until the next call of this library. */
const char* graft_error_last_message(void);

/**
 * Record a failure on this thread. A callback of a primitive does so before it returns non-zero;
 * the exception that MLX gets has this type and text.
 */
void graft_error_set(graft_error_kind kind, const char* message);

/** Forget the last failure on this thread. */
void graft_error_clear(void);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif

#ifndef GRAFT_PRINT_H
#define GRAFT_PRINT_H

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_print How arrays are printed
 */
/**@{*/

/** The number of decimal places of printed floating-point numbers; -1 for the default. */
int graft_get_print_precision(int* res);

/** Set the number of decimal places of printed floating-point numbers; -1 for the default. */
int graft_set_print_precision(int precision);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif

/* The logger handed to a net plugin. A plugin calls it from any thread, so it keeps no state but where
 * lines go: it asks whether the line is wanted, formats into its own stack frame and passes the text on.
 * Where lines go is set once, by pointer, so that a shared library made of this exports no symbol. */
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

enum { LINE_MAX_BYTES = 2048 };

typedef int (*wanted_function)(int level, unsigned long subsystems);
typedef void (*take_function)(int level, unsigned long subsystems, const char *function, int line,
                              const char *text, size_t length);

static _Atomic(wanted_function) wanted;
static _Atomic(take_function) take;

void uccl_tcpx_sys_log_to(wanted_function new_wanted, take_function new_take) {
  atomic_store(&take, new_take);
  atomic_store(&wanted, new_wanted);
}

void uccl_tcpx_sys_log(int level, unsigned long subsystems, const char *function, int line,
                       const char *format, ...) {
  wanted_function is_wanted = atomic_load(&wanted);
  if (format == NULL || is_wanted == NULL || !is_wanted(level, subsystems)) return;
  char text[LINE_MAX_BYTES];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0) return;
  if ((size_t)length >= sizeof text) length = (int)sizeof text - 1;
  atomic_load(&take)(level, subsystems, function, line, text, (size_t)length);
}

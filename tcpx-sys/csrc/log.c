/* The logger handed to a net plugin. A plugin calls it from any thread, so it keeps no state: it asks
 * Rust whether the line is wanted, formats into its own stack frame and passes the text on. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

enum { LINE_MAX_BYTES = 2048 };

int uccl_tcpx_sys_log_gate(int level, unsigned long subsystems);
void uccl_tcpx_sys_log_sink(int level, unsigned long subsystems, const char *function, int line,
                            const char *text, size_t length);

void uccl_tcpx_sys_log(int level, unsigned long subsystems, const char *function, int line,
                       const char *format, ...) {
  if (format == NULL || !uccl_tcpx_sys_log_gate(level, subsystems)) return;
  char text[LINE_MAX_BYTES];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0) return;
  if ((size_t)length >= sizeof text) length = (int)sizeof text - 1;
  uccl_tcpx_sys_log_sink(level, subsystems, function, line, text, (size_t)length);
}

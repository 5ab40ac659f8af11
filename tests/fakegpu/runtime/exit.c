/* The end of the interpreter.

   Autograd has a thread per device, which may still need Python's lock once the interpreter has
   ended. Before version 3.14, Python then ends that thread, which goes through C++ frames that
   allow no such end, and the process aborts. Later versions let the thread wait for ever, as here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

/* The name until Python 3.12, and the one since. */
extern int _Py_IsFinalizing(void) __attribute__((weak));
extern int Py_IsFinalizing(void) __attribute__((weak));

static int finalizing(void) {
    return Py_IsFinalizing ? Py_IsFinalizing() : _Py_IsFinalizing ? _Py_IsFinalizing() : 0;
}

void pthread_exit(void *value) {
    while (finalizing()) pause();
    void (*end)(void *) __attribute__((noreturn)) = dlsym(RTLD_NEXT, "pthread_exit");
    end(value);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Included in front of every source of the natives that are packaged (portable.mk): they run on glibc 2.31 and newer,
 * whatever this machine has. Later glibcs gave functions that had been there for long a second version; the first one
 * is asked for, which is the same code in every glibc since. test/packages looks at what the natives need, and names
 * the function that is missing here.
 */
#ifndef GB_PORTABLE_GLIBC_H
#define GB_PORTABLE_GLIBC_H

#define GB_SINCE(name, version) __asm__(".symver " #name ", " #name "@GLIBC_" #version)
/* glibc 2.34 took threads and dl* into libc.so.6. */
GB_SINCE(dladdr, 2.2.5);
GB_SINCE(dlclose, 2.2.5);
GB_SINCE(dlerror, 2.2.5);
GB_SINCE(dlopen, 2.2.5);
GB_SINCE(dlsym, 2.2.5);
GB_SINCE(dlvsym, 2.2.5);
GB_SINCE(pthread_attr_setstacksize, 2.2.5);
GB_SINCE(pthread_condattr_setclock, 2.3.3);
GB_SINCE(pthread_create, 2.2.5);
GB_SINCE(pthread_detach, 2.2.5);
GB_SINCE(pthread_getspecific, 2.2.5);
GB_SINCE(pthread_join, 2.2.5);
GB_SINCE(pthread_key_create, 2.2.5);
GB_SINCE(pthread_mutex_trylock, 2.2.5);
GB_SINCE(pthread_once, 2.2.5);
GB_SINCE(pthread_rwlock_init, 2.2.5);
GB_SINCE(pthread_rwlock_rdlock, 2.2.5);
GB_SINCE(pthread_rwlock_unlock, 2.2.5);
GB_SINCE(pthread_rwlock_wrlock, 2.2.5);
GB_SINCE(pthread_setname_np, 2.12);
GB_SINCE(pthread_setspecific, 2.2.5);
GB_SINCE(pthread_sigmask, 2.2.5);
GB_SINCE(pthread_timedjoin_np, 2.3.3);
GB_SINCE(sem_init, 2.2.5);
GB_SINCE(sem_post, 2.2.5);
GB_SINCE(sem_wait, 2.2.5);

/* The headers of glibc 2.38 and newer name those that read C23's 0b101 as well. */
__asm__(".symver __isoc23_sscanf, __isoc99_sscanf@GLIBC_2.7");
__asm__(".symver __isoc23_strtol, strtol@GLIBC_2.2.5");
__asm__(".symver __isoc23_strtoll, strtoll@GLIBC_2.2.5");
__asm__(".symver __isoc23_strtoul, strtoul@GLIBC_2.2.5");
__asm__(".symver __isoc23_strtoull, strtoull@GLIBC_2.2.5");

#endif

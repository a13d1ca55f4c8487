/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Included in front of every source of the natives that are packaged (portable.mk): they run on glibc 2.31 and newer,
 * whatever this machine has. glibc 2.33 and 2.34 gave functions that had been there for long a second version; the
 * first one is asked for, which is the same code in every glibc since. A test looks at what the natives need
 * (test/packages), and names the function that is missing here.
 */
#ifndef GB_PORTABLE_GLIBC_H
#define GB_PORTABLE_GLIBC_H

#define GB_FIRST(name) __asm__(".symver " #name ", " #name "@GLIBC_2.2.5")
GB_FIRST(dladdr);
GB_FIRST(dlclose);
GB_FIRST(dlerror);
GB_FIRST(dlopen);
GB_FIRST(dlsym);
GB_FIRST(dlvsym);
GB_FIRST(pthread_attr_setstacksize);
GB_FIRST(pthread_create);
GB_FIRST(pthread_detach);
GB_FIRST(pthread_getspecific);
GB_FIRST(pthread_join);
GB_FIRST(pthread_key_create);
GB_FIRST(pthread_mutex_trylock);
GB_FIRST(pthread_once);
GB_FIRST(pthread_rwlock_rdlock);
GB_FIRST(pthread_rwlock_unlock);
GB_FIRST(pthread_rwlock_wrlock);
GB_FIRST(pthread_setspecific);
GB_FIRST(pthread_sigmask);
GB_FIRST(sem_init);
GB_FIRST(sem_post);
GB_FIRST(sem_wait);
__asm__(".symver pthread_condattr_setclock, pthread_condattr_setclock@GLIBC_2.3.3");
__asm__(".symver pthread_setname_np, pthread_setname_np@GLIBC_2.12");
__asm__(".symver pthread_timedjoin_np, pthread_timedjoin_np@GLIBC_2.3.3");

#endif

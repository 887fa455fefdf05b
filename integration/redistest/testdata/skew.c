// A wall clock that is off by SKEW seconds, to be loaded ahead of the C
// library. libfaketime asks for memory before jemalloc has any to give.

#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
	int status = syscall(SYS_clock_gettime, clock, now);
	if (status == 0 && clock == CLOCK_REALTIME)
		now->tv_sec += SKEW;
	return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
	struct timespec precise;
	int status = clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return status;
}

time_t time(time_t *seconds) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (seconds)
		*seconds = now.tv_sec;
	return now.tv_sec;
}

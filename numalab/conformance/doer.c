/* A process of almost no memory of its own, which does in the guest what it is told.
 *
 * Freestanding: no C library, so that what the kernel moves and counts is what a scenario mapped.
 * Task k reads commands from descriptor 10+2k and answers on 11+2k; all numbers are 8 bytes.
 */

typedef unsigned long word;

enum { SYSCALL, WRITE, READ, POKE, PEEK, FORK, CLONE, LOOK };
enum { SYS_read, SYS_write, SYS_rt_sigaction = 13, SYS_clone = 56,
       SYS_exit_group = 231, SYS_move_pages = 279 };
enum { SIGBUS = 7, SIGSEGV = 11, SIGCHLD = 17, CLONE_PARENT = 0x8000, SEGV_ACCERR = 2, EACCES = 13, EFAULT = 14 };
enum { THREADS = 4, STACK = 4096, BUFFER = 64 };

static const word SA_SIGINFO = 4, SA_RESTORER = 0x04000000, SA_NODEFER = 0x40000000;
/* CLONE_VM, FS, FILES, SIGHAND, THREAD and SYSVSEM. */
static const word A_THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000;

struct command { word op, a[7]; };
struct action { void (*handler)(int, int *, void *); word flags; void (*restorer)(void); word mask; };

static void *escape[5];
static volatile int failure;
static char stacks[THREADS][STACK] __attribute__((aligned(16)));

static long call(word number, word a, word b, word c, word d, word e, word f)
{
	register word r10 __asm__("r10") = d;
	register word r8 __asm__("r8") = e;
	register word r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall" : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void quit(void) { call(SYS_exit_group, 0, 0, 0, 0, 0, 0); }

static void restorer(void) { quit(); }

/* As an errno, what happened: info[2] is si_code. */
static void caught(int signal, int *info, void *context)
{
	(void)context;
	failure = signal == SIGSEGV && info[2] == SEGV_ACCERR ? -EACCES : -EFAULT;
	__builtin_longjmp(escape, 1);
}

static void receive(word task, void *to, word length)
{
	for (word done = 0; done < length;) {
		long got = call(SYS_read, 10 + 2 * task, (word)to + done, length - done, 0, 0, 0);
		if (got <= 0)
			quit();
		done += got;
	}
}

static void send(word task, const void *from, word length)
{
	for (word done = 0; done < length;) {
		long put = call(SYS_write, 11 + 2 * task, (word)from + done, length - done, 0, 0, 0);
		if (put <= 0)
			quit();
		done += put;
	}
}

/* Functions of their own: setjmp expects to be returned to from a call, not from an instruction. */
static __attribute__((noinline, noipa)) void store(word address, word value)
{
	*(volatile word *)address = value;
}

static __attribute__((noinline, noipa)) word load(word address)
{
	return *(volatile word *)address;
}

/* Words at address, address + stride, ...: value, value + 1, ...  Gives 0 or -errno. */
static long write_words(word address, word count, word stride, word value)
{
	if (__builtin_setjmp(escape))
		return failure;
	for (word i = 0; i < count; i++)
		store(address + i * stride, value + i);
	return 0;
}

static long read_words(word address, word count, word stride, word *values)
{
	if (__builtin_setjmp(escape))
		return failure;
	for (word i = 0; i < count; i++)
		values[i] = load(address + i * stride);
	return 0;
}

struct look { word address; int status; int readable; word value; };

/* Of each address: its node or -errno, and the word there; a page that is absent is not touched. */
static void look(word task, word count, word array)
{
	word *address = (word *)array;
	int *status = (int *)(address + count);
	receive(task, address, count * sizeof *address);
	call(SYS_move_pages, 0, count, array, 0, (word)status, 0);
	for (word i = 0; i < count; i++) {
		struct look seen = {address[i], status[i], 0, 0};
		if (status[i] >= 0)
			seen.readable = read_words(address[i], 1, 0, &seen.value) == 0;
		send(task, &seen, sizeof seen);
	}
}

void loop(word task);

static long thread(word task, char *stack)
{
	long result;
	word *top = (word *)(stack + STACK - 16);
	top[0] = task;
	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tpop %%rdi\n\txor %%ebp, %%ebp\n\t"
			 "call loop\n1:"
			 : "=a"(result)
			 : "a"((word)SYS_clone), "D"(A_THREAD), "S"(top), "d"(0)
			 : "rcx", "r11", "r8", "r9", "r10", "memory");
	return result;
}

__attribute__((used)) void loop(word task)
{
	struct command c;
	word values[BUFFER];
	for (;;) {
		word told = 0;
		long result = 0;
		receive(task, &c, sizeof c);
		switch (c.op) {
		case SYSCALL:
			result = call(c.a[0], c.a[1], c.a[2], c.a[3], c.a[4], c.a[5], c.a[6]);
			break;
		case WRITE:
			result = write_words(c.a[0], c.a[1], c.a[2], c.a[3]);
			break;
		case READ:
			told = c.a[1] > BUFFER ? BUFFER : c.a[1];
			for (word i = 0; i < told; i++)
				values[i] = 0;
			result = read_words(c.a[0], told, c.a[2], values);
			break;
		case POKE:
			receive(task, (char *)c.a[0], c.a[1]);
			break;
		case PEEK:
			send(task, (char *)c.a[0], c.a[1]);
			continue;
		case LOOK:
			look(task, c.a[0], c.a[1]);
			continue;
		case FORK:
			result = call(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, 0);
			if (result == 0) {
				task = c.a[0];
				continue;
			}
			break;
		case CLONE:
			result = thread(c.a[0], stacks[c.a[0] % THREADS]);
			break;
		}
		send(task, &result, sizeof result);
		if (told)
			send(task, values, told * sizeof *values);
	}
}

/* The number of the task is its name; stack: argc, argv[0], ... */
__attribute__((used)) void begin(word *stack)
{
	struct action action = {caught, SA_SIGINFO | SA_RESTORER | SA_NODEFER, restorer, 0};
	call(SYS_rt_sigaction, SIGSEGV, (word)&action, 0, 8, 0, 0);
	call(SYS_rt_sigaction, SIGBUS, (word)&action, 0, 8, 0, 0);
	loop(*(char *)stack[1] - '0');
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");

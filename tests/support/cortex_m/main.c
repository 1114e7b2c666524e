/* Run a network on images in memory, on a bare Cortex-M in QEMU. Print the bits of the logits and the instructions. */
#include <stdint.h>

#include BNN_HEADER
#include "images.h" /* IMAGES, images */

extern uint32_t data_start, data_end, data_source, bss_start, bss_end, stack_top;

/* The first timer of the board counts down at 25 MHz: with -icount shift=0, once in 40 instructions. */
#define TIMER ((volatile uint32_t *)0x40000000u)
#define INSTRUCTIONS 40u

/* Ask QEMU for a service (semihosting): 4 prints a text, 0x18 ends the program. */
static void host(int service, const void *argument)
{
    register int r0 __asm__("r0") = service;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void print(uint32_t value, char end)
{
    char text[10];
    int i;
    for (i = 0; i < 8; ++i)
        text[i] = "0123456789abcdef"[(value >> (28 - 4 * i)) & 15u];
    text[8] = end;
    text[9] = 0;
    host(4, text);
}

static float logits[BNN_CLASSES];

void reset(void)
{
    uint32_t *to, *from = &data_source;
    int image, class;
    *(volatile uint32_t *)0xe000ed88u |= 0xf00000u; /* switch the floating-point unit on */
    __asm__ volatile("dsb\nisb");
    for (to = &data_start; to < &data_end;)
        *to++ = *from++;
    for (to = &bss_start; to < &bss_end;)
        *to++ = 0;
    TIMER[2] = 0xffffffffu;
    TIMER[1] = 0xffffffffu;
    TIMER[0] = 1;
    for (image = 0; image < IMAGES; ++image) {
        const uint32_t before = TIMER[1];
        bnn_predict((const float *)images[image], logits);
        print((before - TIMER[1]) * INSTRUCTIONS, ' ');
        for (class = 0; class < BNN_CLASSES; ++class) {
            union { float number; uint32_t bits; } logit;
            logit.number = logits[class];
            print(logit.bits, class + 1 < BNN_CLASSES ? ' ' : '\n');
        }
    }
    host(0x18, (const void *)0x20026);
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {&stack_top, (const void *)reset};

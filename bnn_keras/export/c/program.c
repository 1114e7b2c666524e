/* Read images from the standard input and write their logits to the standard output. */
#include <stdio.h>

#include BNN_HEADER

int main(void)
{
    static float image[BNN_INPUTS], logits[BNN_CLASSES];
    while (fread(image, sizeof image, 1, stdin) == 1) {
        const int best = bnn_predict(image, logits);
        int class;
        for (class = 0; class < BNN_CLASSES; ++class)
            if (logits[class] > logits[best]) {
                fprintf(stderr, "bnn_predict returned %d, whose logit is not the largest\n", best);
                return 1;
            }
        if (fwrite(logits, sizeof logits, 1, stdout) != 1)
            return 1;
    }
    return 0;
}

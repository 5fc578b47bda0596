/* The two policies, for attention_config.c. */
#ifndef SYSTOLIC_TPU_ATTENTION_POLICY_H
#define SYSTOLIC_TPU_ATTENTION_POLICY_H

#include "tpu/attention_config.h"

/* Fills what follows from the blocks: bytes per token, VMEM needed, predictions. */
void attention_price(const attention_shape *s, attention_config *c);
void attention_by_table(const chip *k, const attention_shape *s, attention_config *out);
/* c: the table's choice, which stays if nothing is better (or nothing fits). */
void attention_by_cost(const chip *k, const attention_shape *s, attention_config *c);

int attention_table_multiple(const chip *k);
/* Pages that auto considers. Larger ones than ATTENTION_PAGE_SHARED make what prompts share too coarse, and are for those shapes alone
 * whose page table would fill the scalar memory, or where the table's own larger pages would be faster. */
enum { ATTENTION_PAGE_SHARED = 128, ATTENTION_PAGE_MOST = 512 };
int attention_page_least(const attention_shape *s);

#endif

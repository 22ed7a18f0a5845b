#include "label.h"
#include "pairs.h"
#include "sums.h"

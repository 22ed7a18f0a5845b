#include "label.h"
#include "pairs.h"

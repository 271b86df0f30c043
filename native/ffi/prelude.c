#include "netsonde.h"

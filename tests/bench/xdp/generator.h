/* generator.h - the maps shared by the generator's program and its loader. */
#ifndef SONDE_BENCH_GENERATOR_H
#define SONDE_BENCH_GENERATOR_H

#include <linux/types.h>

/* Frames without their checksum (FCS): 64, 594 and 1518 bytes on the wire. */
enum { GENERATOR_SMALL = 60, GENERATOR_MEDIUM = 590, GENERATOR_LARGE = 1514 };

struct generator_settings {
  __u64 gap_256th_ns; /* between two frames, in 1/256 ns; 0: unlimited rate */
  __u32 ifindex;
  __u32 flow_mask;
  __u32 mixed;       /* 1: IMIX, cut from large frames */
  __u16 checksum[4]; /* by size: BYTES, small, medium, large */
};

struct generator_state {
  __u64 frames;
  __u64 begun_ns; /* time of the first frame; CLOCK_MONOTONIC */
  __u64 ended_ns; /* time of the last frame; CLOCK_MONOTONIC */
  __u64 due_256th_ns;
};

#endif

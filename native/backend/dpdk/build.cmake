# build.cmake - the DPDK process, the only part that links DPDK. DPDK_READY: libdpdk was found.
#
# EAL runs in a separate program in the plugins' directory. The program's name holds the ABI
# version of its libraries, and the plugin starts it by that name.
pkg_check_modules(DPDK libdpdk)
find_library(DPDK_EAL rte_eal HINTS ${DPDK_LIBRARY_DIRS})
if(DPDK_FOUND AND DPDK_EAL)
  set(DPDK_READY TRUE)
else()
  set(DPDK_READY FALSE)
  message(STATUS "The dpdk backend is not built: pkg-config does not find libdpdk")
endif()

function(dpdk_engine_add plugin)
  file(REAL_PATH ${DPDK_EAL} eal)
  string(REGEX REPLACE ".*[.]so[.]([0-9]+).*" "\\1" abi ${eal})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/backend/dpdk/engine*.c)
  add_executable(dpdk_engine ${sources})
  # Without sanitizers: EAL lays out the address space itself.
  target_include_directories(dpdk_engine PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}
    ${CMAKE_CURRENT_SOURCE_DIR}/include)
  target_include_directories(dpdk_engine SYSTEM PRIVATE ${DPDK_INCLUDE_DIRS})
  target_compile_definitions(dpdk_engine PRIVATE _GNU_SOURCE
    ALLOW_EXPERIMENTAL_API) # rte_eth_read_clock still is one
  target_compile_options(dpdk_engine PRIVATE ${DPDK_CFLAGS_OTHER} -Wall -Wextra -Wshadow
    -Wstrict-prototypes -Werror -fno-strict-aliasing -fstack-protector-strong -O3)
  target_link_directories(dpdk_engine PRIVATE ${DPDK_LIBRARY_DIRS})
  target_link_libraries(dpdk_engine PRIVATE -Wl,--as-needed -lrte_ethdev -lrte_mbuf -lrte_mempool
    -lrte_net -lrte_eal Threads::Threads)
  # Exports: drivers must find engine_guard.c's functions before the C library's.
  set_target_properties(dpdk_engine PROPERTIES OUTPUT_NAME dpdk-engine-abi${abi}
    ENABLE_EXPORTS ON RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/backends)
  target_compile_definitions(${plugin} PRIVATE SONDE_DPDK_ENGINE="dpdk-engine-abi${abi}")
  add_dependencies(${plugin} dpdk_engine)
  if(SKBUILD)
    install(TARGETS dpdk_engine RUNTIME DESTINATION netsonde/backends)
  endif()
endfunction()

# Compiles the programs and embeds them in the plugin. Needs no bpftool, and no clang at run
# time. Sets XDP_READY, or prints what is missing.
pkg_check_modules(BPF IMPORTED_TARGET libbpf)
find_program(BPF_CLANG NAMES clang)
set(XDP_READY OFF)
if(NOT BPF_FOUND)
  message(STATUS "backend xdp is not built: libbpf (libbpf-dev) is missing")
elseif(NOT BPF_CLANG)
  message(STATUS "backend xdp is not built: clang, which compiles its eBPF programs, is missing")
else()
  set(XDP_READY ON)
endif()

# Compiles <name>.bpf.c into the plugin's build and makes <target> depend on it.
function(xdp_embed target name)
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/backend/xdp/${name}.bpf.c)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/xdp_${name}.bpf.o)
  # Some systems keep the kernel's headers below the architecture's folder.
  set(headers -I${CMAKE_CURRENT_SOURCE_DIR}/include)
  if(CMAKE_LIBRARY_ARCHITECTURE)
    list(APPEND headers -I/usr/include/${CMAKE_LIBRARY_ARCHITECTURE})
  endif()
  add_custom_command(OUTPUT ${object}
    COMMAND ${BPF_CLANG} -O2 -g -target bpf -mcpu=v3 -ffreestanding -Wall -Wextra -Werror
            ${headers} -c ${source} -o ${object}
    DEPENDS ${source} ${CMAKE_CURRENT_SOURCE_DIR}/backend/xdp/map_layout.h
            ${CMAKE_CURRENT_SOURCE_DIR}/backend/xdp/payloads.bpf.h
            ${CMAKE_CURRENT_SOURCE_DIR}/backend/xdp/slots.bpf.h
            ${CMAKE_CURRENT_SOURCE_DIR}/backend/xdp/view.bpf.h
            ${CMAKE_CURRENT_SOURCE_DIR}/include/app_label.h
            ${CMAKE_CURRENT_SOURCE_DIR}/include/packet.h
            ${CMAKE_CURRENT_SOURCE_DIR}/include/record.h
    VERBATIM)
  add_custom_target(xdp_${name}_object DEPENDS ${object})
  add_dependencies(${target} xdp_${name}_object)
  string(TOUPPER ${name} upper)
  set_property(SOURCE ${CMAKE_CURRENT_SOURCE_DIR}/backend/xdp/object.c APPEND PROPERTY
    COMPILE_DEFINITIONS XDP_${upper}_OBJECT="${object}")
  set_property(SOURCE ${CMAKE_CURRENT_SOURCE_DIR}/backend/xdp/object.c APPEND PROPERTY
    OBJECT_DEPENDS ${object})
endfunction()

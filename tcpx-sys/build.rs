//! Compiles the C logger shim: Rust cannot define a C-variadic function.

fn main() {
    println!("cargo:rerun-if-changed=csrc/log.c");
    cc::Build::new()
        .file("csrc/log.c")
        .std("c11")
        .warnings(true)
        .extra_warnings(true)
        .compile("uccl_tcpx_log");
}

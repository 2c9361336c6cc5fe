//! Link options of the shared library: NCCL may `dlclose` a plugin whose threads still run, so it must
//! stay mapped; and it is known by one name wherever it is copied.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnccl-net-tcpx-soft.so");
}

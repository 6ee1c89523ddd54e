//! Nothing. The published `rpcnet` 0.1.0 names `quiche` as a dependency and uses no item of it, as its compiling
//! against this proves; the real one would have every benchmark build BoringSSL with CMake.

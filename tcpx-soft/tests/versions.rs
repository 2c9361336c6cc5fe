//! Every exported table, driven through its own signatures by one scenario.

mod support;

use support::{Net, pattern};
use tcpx_sys::device::{DEVICE_HOST, DeviceHandle};
use tcpx_sys::{PTR_HOST, Version};

fn scenario(version: Version) {
    let net = Net(tcpx_soft::plugin_of(version).table);
    assert_eq!(net.0.version(), version);
    assert_eq!(net.init(), 0);
    assert!(net.devices() > 0);
    let (name, support, device, max_recvs) = net.properties(0).expect("device 0");
    assert!(!name.is_empty());
    assert_eq!((support, device, max_recvs), (PTR_HOST, DEVICE_HOST, 1));
    assert_eq!(net.properties(1000).expect_err("no such device"), 3);

    let mut queue = DeviceHandle::zeroed();
    let (send, receive) = net.pair(0, &mut queue);
    let sizes = [0, 1, 100, 4096, 16384, 16385, 65537, 300_000, 2_097_155, 9_000_001];
    let mut into = vec![0u8; 10 << 20];
    for (seed, size) in sizes.into_iter().enumerate() {
        let from = pattern(seed as u64 + 1, size);
        let room = vec![0u8; size.max(1)];
        into[..size + 8].fill(0xA5);
        let (from_mr, into_mr) = (
            net.reg_mr(send, if size == 0 { &room } else { &from }, PTR_HOST).expect("send memory"),
            net.reg_mr(receive, &into, PTR_HOST).expect("receive memory"),
        );
        let at = if size == 0 { room.as_ptr() } else { from.as_ptr() };
        // The hint that newer NCCL leaves in `*request` must be overwritten.
        let (code, sent) = net.isend(send, at, size, from_mr, 1);
        assert_eq!(code, 0, "isend of {size}");
        let (code, received) = net.irecv_n(receive, 1, into.as_mut_ptr(), size.max(1) + 7, into_mr, 1);
        assert_eq!(code, 0, "irecv of {size}");
        let mut sent_done = false;
        assert!(sent as usize > 2 && received as usize > 2);
        let size_told = net.finish(&[received], || {
            let (code, done, _) = if sent_done { (0, true, 0) } else { net.test(sent) };
            assert_eq!(code, 0);
            sent_done = done;
        });
        if !sent_done {
            net.finish(&[sent], || {});
        }
        assert_eq!(size_told, size as i32, "the receive tells the sender's size");
        assert_eq!(net.consumed(receive, received), 0);
        assert_eq!(&into[..size], &from[..]);
        assert_eq!(into[size], 0xA5, "nothing is written behind the message");
        assert_eq!(net.dereg_mr(send, from_mr), 0);
        assert_eq!(net.dereg_mr(receive, into_mr), 0);
    }
    assert_eq!(net.iflush(receive), (0, std::ptr::null_mut()));
    assert_eq!(net.get_device_mr(receive, std::ptr::null_mut()), (0, std::ptr::null_mut()));
    assert_eq!(net.close_send(send), 0);
    assert_eq!(net.close_recv(receive), 0);
}

#[test]
fn version_7() {
    scenario(Version::V7);
}
#[test]
fn version_8() {
    scenario(Version::V8);
}
#[test]
fn version_9() {
    scenario(Version::V9);
}
#[test]
fn version_10() {
    scenario(Version::V10);
}
#[test]
fn version_11() {
    scenario(Version::V11);
}

"""What FFmpeg may read for a source: nothing but what was named, whatever that leads to.

A playlist, a session description or a pattern names other files; opened as a video, it would read
them. Every address that FFmpeg opens for a source, the nested ones too, has to be of a protocol on
the list of that kind of source, and a file has to be a video itself.
"""

_HTTP = "http,https,httpproxy,tcp,tls,crypto"  # crypto: the encrypted segments of HLS
_RTP = "rtp,srtp,udp,tcp,tls"
_RTMP = "rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,ffrtmpcrypt,ffrtmphttp,http,https,tcp,tls"
_PROTOCOLS = {
    **dict.fromkeys(("rtsp", "rtsps"), f"rtsp,rtsps,http,https,httpproxy,{_RTP}"),
    **dict.fromkeys(("http", "https"), _HTTP),
    **dict.fromkeys(("rtp", "srtp"), _RTP),
    **dict.fromkeys(("udp", "udplite"), "udp,udplite"),
    **dict.fromkeys(("rtmp", "rtmpe", "rtmps", "rtmpt", "rtmpte", "rtmpts"), _RTMP),
    **dict.fromkeys(("mmsh", "mmst"), "mmsh,mmst,http,tcp"),
    **dict.fromkeys(("tcp", "tls"), "tcp,tls"),
    "srt": "srt,udp",
    "rist": "rist,udp",
    "ftp": "ftp,tcp",
    "sftp": "sftp",
}
SCHEMES = tuple(_PROTOCOLS)
"""Of the URLs that are read."""

_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,asf,flv,live_flv,ogg,nut,mxf,gxf,dv,rm,wtv,nsv,dhav,ivf,obu,"
    "h261,h263,h264,hevc,vvc,evc,av1,m4v,mpegvideo,vc1,dirac,dnxhd,cavsvideo,avs2,avs3,"
    "mjpeg,mjpeg_2000,mpjpeg,smjpeg,yuv4mpegpipe"
)
_PICTURES = (
    "gif,apng,bmp_pipe,gif_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,"
    "pam_pipe,pbm_pipe,pgm_pipe,png_pipe,ppm_pipe,qoi_pipe,tiff_pipe,webp_pipe"
)
_SOUND = "mp3,wav,w64,flac,aac,ac3,eac3,aiff,amr,ape,au,caf,dts,tta,wv"  # "holds no video"
OF_A_FILE = {
    "protocol_whitelist": "file",
    "format_whitelist": f"{_CONTAINERS},{_PICTURES},{_SOUND}",
}
"""FFmpeg's options for a local file."""


def protocols_of(scheme: str) -> str | None:
    """What a URL of this scheme may use, in FFmpeg's words; None where it is not read."""
    return _PROTOCOLS.get(scheme)

"""Content-Format numbers (IANA "CoAP Content-Formats"): a media type with its parameters and coding, as one number.

RFC 7252 §12.3. Two numbers are for documentation, like example.com (RFC 9876), those from 65000 on for experiments.
"""

from __future__ import annotations

from typing import Optional

TEXT = 0
COSE_ENCRYPT0 = 16
COSE_MAC0 = 17
COSE_SIGN1 = 18
LINK_FORMAT = 40
XML = 41
OCTET_STREAM = 42
EXI = 47
JSON = 50
JSON_PATCH = 51
MERGE_PATCH = 52
CBOR = 60
CWT = 61
MULTIPART = 62
CBOR_SEQUENCE = 63
SENML_JSON = 110
SENSML_JSON = 111
SENML_CBOR = 112
SENSML_CBOR = 113
PROBLEM_DETAILS_CBOR = 257
MISSING_BLOCKS = 272
PKCS7_SERVER_GENERATED_KEY = 280
PKCS7_CERTS_ONLY = 281
PKCS8 = 284
CSR_ATTRIBUTES = 285
PKCS10 = 286
PKIX_CERTIFICATE = 287
SENML_ETCH_JSON = 320
SENML_ETCH_CBOR = 322

DOCUMENTATION = (64998, 64999)
FIRST_EXPERIMENTAL = 65000

# A content coding stands behind the media type, in brackets.
CONTENT_FORMATS: dict[int, str] = {
    TEXT: "text/plain; charset=utf-8",
    COSE_ENCRYPT0: 'application/cose; cose-type="cose-encrypt0"',
    COSE_MAC0: 'application/cose; cose-type="cose-mac0"',
    COSE_SIGN1: 'application/cose; cose-type="cose-sign1"',
    19: "application/ace+cbor",
    21: "image/gif",
    22: "image/jpeg",
    23: "image/png",
    LINK_FORMAT: "application/link-format",
    XML: "application/xml",
    OCTET_STREAM: "application/octet-stream",
    EXI: "application/exi",
    JSON: "application/json",
    JSON_PATCH: "application/json-patch+json",
    MERGE_PATCH: "application/merge-patch+json",
    CBOR: "application/cbor",
    CWT: "application/cwt",
    MULTIPART: "application/multipart-core",
    CBOR_SEQUENCE: "application/cbor-seq",
    64: "application/edhoc+cbor-seq",
    65: "application/cid-edhoc+cbor-seq",
    96: 'application/cose; cose-type="cose-encrypt"',
    97: 'application/cose; cose-type="cose-mac"',
    98: 'application/cose; cose-type="cose-sign"',
    101: "application/cose-key",
    102: "application/cose-key-set",
    SENML_JSON: "application/senml+json",
    SENSML_JSON: "application/sensml+json",
    SENML_CBOR: "application/senml+cbor",
    SENSML_CBOR: "application/sensml+cbor",
    114: "application/senml-exi",
    115: "application/sensml-exi",
    140: "application/yang-data+cbor; id=sid",
    256: "application/coap-group+json",
    PROBLEM_DETAILS_CBOR: "application/concise-problem-details+cbor",
    258: "application/swid+cbor",
    259: "application/pkixcmp",
    260: "application/yang-sid+json",
    261: "application/ace-groupcomm+cbor",
    262: "application/ace-trl+cbor",
    263: "application/eat+cwt",
    264: "application/eat+jwt",
    265: "application/eat-bun+cbor",
    266: "application/eat-bun+json",
    267: "application/eat-ucs+cbor",
    268: "application/eat-ucs+json",
    269: "application/coap-eap",
    270: "application/suit-report+cose",
    271: "application/dots+cbor",
    MISSING_BLOCKS: "application/missing-blocks+cbor-seq",
    273: "application/cmw+cbor",
    274: "application/cmw+json",
    275: "application/cmw+cose",
    276: "application/cmw+jws",
    277: "application/scitt-statement+cose",
    278: "application/scitt-receipt+cose",
    279: "application/statuslist+cwt",
    PKCS7_SERVER_GENERATED_KEY: "application/pkcs7-mime; smime-type=server-generated-key",
    PKCS7_CERTS_ONLY: "application/pkcs7-mime; smime-type=certs-only",
    PKCS8: "application/pkcs8",
    CSR_ATTRIBUTES: "application/csrattrs",
    PKCS10: "application/pkcs10",
    PKIX_CERTIFICATE: "application/pkix-cert",
    290: "application/aif+cbor",
    291: "application/aif+json",
    292: "application/aif+cbor; toid=CRI-local-part",
    293: "application/sd-cwt",
    294: "application/kb+cwt",
    295: "application/measured-component+cbor",
    296: "application/measured-component+json",
    297: "application/aif+cbor; toid=oscore-gname; tperm=oscore-gperm",
    298: "application/aif+json; toid=oscore-gname; tperm=oscore-gperm",
    310: "application/senml+xml",
    311: "application/sensml+xml",
    SENML_ETCH_JSON: "application/senml-etch+json",
    SENML_ETCH_CBOR: "application/senml-etch+cbor",
    340: "application/yang-data+cbor",
    341: "application/yang-data+cbor; id=name",
    432: "application/td+json",
    433: "application/tm+json",
    434: "application/sdf+json",
    553: "application/dns-message",
    601: "application/uccs+cbor",
    836: "application/voucher+cose",
    10000: "application/vnd.ocf+cbor",
    10001: "application/oscore",
    10002: "application/javascript",
    10003: 'application/eat+cwt; eat_profile="tag:psacertified.org,2023:psa#tfm"',
    10004: 'application/eat+cwt; eat_profile="tag:psacertified.org,2019:psa#legacy"',
    10005: "application/eat+cwt; eat_profile=2.16.840.1.113741.1.16.1",
    10006: "application/vnd.oms.cellular-cose-content+cbor",
    10007: "application/syslog-msg",
    10570: "application/toc+cbor",
    10571: "application/ce+cbor",
    10572: "application/toc+cbor; profile=2.16.840.1.113741.1.16.1",
    10573: "application/ce+cbor; profile=2.16.840.1.113741.1.16.1",
    11050: "application/json (deflate)",
    11060: "application/cbor (deflate)",
    11542: "application/vnd.oma.lwm2m+tlv",
    11543: "application/vnd.oma.lwm2m+json",
    11544: "application/vnd.oma.lwm2m+cbor",
    12000: "text/plain; charset=utf-8 (zstd)",
    12041: "application/xml (zstd)",
    12050: "application/json (zstd)",
    20000: "text/css",
    20001: "application/vnd.as207960.vas.config+jer",
    20002: "application/vnd.as207960.vas.config+uper",
    20003: "application/vnd.as207960.vas.tap+jer",
    20004: "application/vnd.as207960.vas.tap+uper",
    30000: "image/svg+xml",
}


def content_format_name(number: int) -> str:
    """Return the media type behind `number`, or "Content-Format 1234" where IANA lists none."""
    kind = " (documentation)" if number in DOCUMENTATION else " (experimental)" if number >= FIRST_EXPERIMENTAL else ""
    return CONTENT_FORMATS.get(number) or f"Content-Format {number}{kind}"


def content_format_number(text: str) -> Optional[int]:
    """Return the number that `text` means; None if it means none.

    `text` is a decimal number, a media type as in the table, one without its "application/" ("json"), or "text".
    """
    wanted = text.strip().lower()
    if wanted.isascii() and wanted.isdigit():
        number = int(wanted)
        return number if number <= 0xFFFF else None
    if wanted in ("text", "text/plain"):
        return TEXT
    for number, name in CONTENT_FORMATS.items():
        plain = name.lower()
        if wanted in (plain, plain.removeprefix("application/")):
            return number
    return None

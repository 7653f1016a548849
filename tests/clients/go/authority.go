package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// authority is the CA of the server that these tests play. The last certificate signs.
type authority struct {
	td string

	mu     sync.Mutex
	certs  []*x509.Certificate
	taints map[string]bool
	key    *ecdsa.PrivateKey
	jwtKey *ecdsa.PrivateKey
}

func newAuthority(td string) (*authority, error) {
	jwtKey, err := newKey()
	if err != nil {
		return nil, err
	}
	a := &authority{td: td, taints: map[string]bool{}, jwtKey: jwtKey}
	return a, a.rotate()
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err)
	}
	return n
}

func (a *authority) rotate() error {
	key, err := newKey()
	if err != nil {
		return err
	}
	number := serial()
	template := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIFFE"}, SerialNumber: number.String()},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: []*url.URL{{Scheme: "spiffe", Host: a.td}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.certs, a.key = append(a.certs, cert), key
	return nil
}

func (a *authority) taintOld() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, cert := range a.certs[:len(a.certs)-1] {
		a.taints[string(cert.Raw)] = true
	}
}

func (a *authority) revokeOld() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.certs = a.certs[len(a.certs)-1:]
}

func (a *authority) writePEM(path string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certs[0].Raw}), 0o600)
}

func (a *authority) leaf(public any, path string, ttl time.Duration) (*x509.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
		NotBefore: time.Now().Add(-10 * time.Second), NotAfter: time.Now().Add(ttl), BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: a.td, Path: path}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certs[len(a.certs)-1], public, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (a *authority) sign(csr []byte, path string, ttl time.Duration) (*types.X509SVID, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	cert, err := a.leaf(request.PublicKey, path, ttl)
	if err != nil {
		return nil, err
	}
	return &types.X509SVID{CertChain: [][]byte{cert.Raw}, Id: &types.SPIFFEID{TrustDomain: a.td, Path: path}, ExpiresAt: cert.NotAfter.Unix()}, nil
}

const jwtKeyID = "test-key"

func (a *authority) signJWT(path string, audience []string) (*types.JWTSVID, error) {
	now := time.Now()
	header, _ := json.Marshal(object{"alg": "ES256", "kid": jwtKeyID, "typ": "JWT"})
	claims, _ := json.Marshal(object{"sub": "spiffe://" + a.td + path, "aud": audience, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()})
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, a.jwtKey, digest[:])
	if err != nil {
		return nil, err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return &types.JWTSVID{
		Token: text + "." + base64.RawURLEncoding.EncodeToString(signature), Id: &types.SPIFFEID{TrustDomain: a.td, Path: path},
		IssuedAt: now.Unix(), ExpiresAt: now.Add(5 * time.Minute).Unix(),
	}, nil
}

func (a *authority) bundle(sequence uint64) *types.Bundle {
	a.mu.Lock()
	defer a.mu.Unlock()
	public, err := x509.MarshalPKIXPublicKey(a.jwtKey.Public())
	if err != nil {
		panic(err)
	}
	bundle := &types.Bundle{
		TrustDomain: a.td, SequenceNumber: sequence,
		JwtAuthorities: []*types.JWTKey{{PublicKey: public, KeyId: jwtKeyID, ExpiresAt: time.Now().Add(24 * time.Hour).Unix()}},
	}
	for _, cert := range a.certs {
		bundle.X509Authorities = append(bundle.X509Authorities, &types.X509Certificate{Asn1: cert.Raw, Tainted: a.taints[string(cert.Raw)]})
	}
	return bundle
}

func (a *authority) serverCertificate() (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	cert, err := a.leaf(key.Public(), "/spire/server", time.Hour)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
}

// verifyClient lets clients without a certificate in, and checks the others.
func (a *authority) verifyClient(raw [][]byte, _ [][]*x509.Certificate) error {
	if len(raw) == 0 {
		return nil
	}
	cert, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	pool := x509.NewCertPool()
	for _, root := range a.certs {
		pool.AddCert(root)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Host != a.td {
		return errors.New("not of this trust domain")
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("checking the client: %w", err)
	}
	return nil
}

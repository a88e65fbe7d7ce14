package kafkatest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// issuer signs the tokens that a SecureCluster takes. Its key is in a file as brokers read it (JWKS, RFC 7517).
type issuer struct {
	key  *rsa.PrivateKey
	file string
}

const (
	issuerName    = "https://id.example"
	tokenAudience = "kafka"
)

func newIssuer(dir string) (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	i := &issuer{key, filepath.Join(dir, "jwks.json")}
	set := fmt.Sprintf(`{"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "n": %q, "e": %q}]}`,
		encode(key.N.Bytes()), encode(big.NewInt(int64(key.E)).Bytes()))
	return i, os.WriteFile(i.file, []byte(set), 0o600)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Token gives one for OAuth's listener, which takes this user for the subject: it begins now and ends after life, which may be
// over. Claims are put over those that it has: the audience ("aud"), for another broker.
func (c *SecureCluster) Token(t testing.TB, user string, life time.Duration, claims map[string]any) string {
	t.Helper()
	now := time.Now()
	said := map[string]any{
		"iss": issuerName, "aud": tokenAudience, "sub": user, "iat": now.Add(min(life, 0) - time.Second).Unix(), "exp": float64(now.Add(life).UnixMilli()) / 1000,
		"jti": rand.Text(),
	}
	for name, value := range claims {
		said[name] = value
	}
	body, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	signed := encode([]byte(`{"alg":"RS256","kid":"1","typ":"JWT"}`)) + "." + encode(body)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, c.secure.issuer.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + encode(signature)
}
